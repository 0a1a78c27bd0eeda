"""The doctor looks at everything, says what to do, and never falls over."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from fittest.evo.backends import endpoint_trials
from fittest.runs.cli import main
from fittest.runs.config import parse_config
from fittest.runs.models import pull
from fittest.runs.parts import rewards
from fittest.runs.preflight import doctor, trials
from fittest.runs.preflight.doctor import examine
from fittest.runs.preflight.trials import MARK, Finding
from tests.conftest import null_tables
from tests.http_engine import HttpEngine, hang, refuses, scores_lengths

PROBED = ("torch device", "llama.cpp answers", "MiniLM embeds")
KEY = "sk-very-secret-0123456789"


def named(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def fittest(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder: Path, tables: dict[str, Any]) -> Path:
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


@pytest.fixture
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what starts another process."""

    class NoTrials:
        def __init__(self, config: str, names: list[str]) -> None:
            self.names = names

        def findings(self) -> Iterator[Finding]:
            return (Finding(name, True, "") for name in self.names)

        def end(self) -> None:
            pass

    monkeypatch.setattr(doctor, "_Trials", NoTrials)


@pytest.mark.usefixtures("no_trials")
def test_python_packages_disks_and_processors_are_looked_at() -> None:
    findings = named(examine())
    assert findings["Python"].ok
    assert findings["polars"].detail == metadata.version("polars")
    assert {"numpy", "xllamacpp (embedded)", "vllm (vllm)", "model minilm", "processors", *PROBED} <= findings.keys()
    assert {"NVIDIA driver", "cache disk", "output disk"} <= findings.keys()
    assert not any(name.startswith(("pytest", "ruff")) for name in findings)


@pytest.mark.usefixtures("no_trials")
def test_whatever_is_not_well_comes_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTEST_CACHE", str(tmp_path / "not" / "there" / "yet"))
    findings = named(examine())
    assert findings["model minilm"] == Finding("model minilm", None, "not fetched", "fittest models pull minilm")
    assert f"free at {tmp_path}, writes" in findings["cache disk"].detail
    assert all(finding.remedy for finding in findings.values() if not finding.ok)


@pytest.mark.parametrize(
    ("requirement", "extra", "ok", "detail"),
    [
        ("numpy>=1.0", None, True, "1.10"),
        ("numpy>=1.9; extra == 'view'", "view", True, "1.10"),
        ("numpy[all]>=1.10.1", None, False, "1.10, needs 1.10.1 or later"),
        ("absent>=1", None, False, "not installed"),
        ("absent>=1", "ray", None, "not installed"),
    ],
)
def test_a_package_is_held_against_its_requirement(
    monkeypatch: pytest.MonkeyPatch, requirement: str, extra: str | None, ok: bool | None, detail: str
) -> None:
    def version(name: str) -> str:
        if name == "numpy":
            return "1.10"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = doctor._package(requirement, extra)
    assert (finding.ok, finding.detail) == (ok, detail)


@pytest.mark.usefixtures("no_trials")
def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise PermissionError("no entry")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    assert named(examine())["disk"] == Finding("disk", False, "cannot be looked at: no entry", "look at it yourself")


def test_a_disk_that_is_full_slow_or_closed_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_writing_speed", lambda folder: 1e6)
    slow = doctor._disk("output disk", tmp_path / "run")
    assert slow.ok
    assert slow.remedy.startswith("slow")
    monkeypatch.setattr(doctor, "_BYTES_FREE_AT_LEAST", 10**18)
    assert doctor._disk("output disk", tmp_path).ok is False

    def closed(folder: Path) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "_writing_speed", closed)
    assert doctor._disk("output disk", tmp_path).detail == f"{tmp_path} cannot be written: Permission denied"


FOUND = (
    f"print(); print({MARK!r} + {json.dumps({'name': 'a', 'ok': True, 'detail': 'd', 'remedy': ''})!r}, flush=True)"
)


@pytest.mark.parametrize(
    ("seconds", "program", "answers"),
    [
        (
            60,
            f"print('loading'); {FOUND}; import os; os.kill(os.getpid(), 4)",
            ["d", "ended by signal 4", "not reached"],
        ),
        (60, f"{FOUND}; raise OSError('no such library')", ["d", "OSError: no such library", "not reached"]),
        (60, f"{FOUND}; raise SystemExit(3)", ["d", "it said nothing", "not reached"]),
        (5, f"{FOUND}; import time; time.sleep(300)", ["d", "no answer in 5 seconds", "not reached"]),
    ],
)
def test_a_library_that_dies_or_hangs_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: int, program: str, answers: list[str]
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{program}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(doctor, "_TRIAL_SECONDS", seconds)
    monkeypatch.setattr(sys, "executable", str(script))
    trial = doctor._Trials("", ["a", "b", "c"])
    found = list(trial.findings())
    trial.end()
    assert [finding.name for finding in found] == ["a", "b", "c"]
    assert [finding.detail for finding in found] == answers
    assert [finding.ok for finding in found] == [True, False, False]


def test_nothing_is_tried_without_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTEST_CACHE", str(tmp_path))
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    (finding,) = trials.findings("MiniLM embeds", None)
    assert finding == Finding("MiniLM embeds", None, "not tried: the model minilm is absent")


def test_what_a_configuration_needs_is_tried_out_and_nothing_else(tmp_path: Path) -> None:
    done = fittest("doctor", written(tmp_path, null_tables()), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = {line[8:40].strip(): line for line in done.output.splitlines() if line.startswith("ok")}
    assert {"pool", "engine answers", "torch device", "embedder embeds", "reward scores", "output disk"} <= set(lines)
    assert "40 prompts" in lines["pool"]
    assert "hash" in lines["embedder embeds"]
    assert not any("(" in name or name.startswith("model") for name in lines)
    assert f"free at {tmp_path}" in lines["output disk"]
    assert done.output.endswith(": nothing is broken\n")


def test_servers_of_engine_and_reward_are_asked_and_the_key_is_not_shown(
    server: HttpEngine, other: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    other.answer = scores_lengths
    tables = null_tables()
    tables["engine"] = {"kind": "openai", "model": "m", "base_url": server.url, "api_key_env": "SOME_KEY"}
    tables["reward"] = {"kind": "classifier", "model": "r", "base_url": other.url, "api_key_env": "SOME_KEY"}
    config = written(tmp_path, tables)
    done = fittest("doctor", config)
    assert done.exit_code == 0, done.output
    assert f"m at {server.url}" in done.output
    assert "asked for as completions" in done.output
    assert f"one pair by r at {other.url}" in done.output
    assert all(asked.body["max_tokens"] <= 16 for asked in server.asked)
    assert len(server.asked) <= 4
    other.answer = refuses(401, f"no access with {KEY}")
    done = fittest("doctor", config)
    assert done.exit_code == 1
    assert "BROKEN  reward scores" in done.output
    assert "check the key in the environment variable SOME_KEY" in done.output
    assert "→ see [reward] in the configuration" in done.output
    assert done.output.endswith(": 1 broken\n")
    assert KEY not in done.output


@pytest.mark.parametrize("kind", ["judge", "pairwise"])
def test_a_reward_that_asks_the_engine_is_well_when_the_engine_is(kind: str) -> None:
    (finding,) = trials.findings("reward scores", parse_config(null_tables(reward={"kind": kind})))
    assert finding == Finding("reward scores", True, f"{kind} asks the engine")


def test_a_reward_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        fingerprint, quick = "slow", False

        async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
            return [0.5 for _ in zip(prompts, responses, strict=True)]

    monkeypatch.setattr(rewards, "reward_of", lambda *parts: Slow())
    (finding,) = trials.findings("reward scores", parse_config(null_tables()))
    assert finding == Finding("reward scores", True, "slow, 0.5 for a greeting")


@pytest.mark.parametrize(
    ("section", "keys", "name"),
    [
        ("engine", {"kind": "replay", "path": "absent.parquet"}, "engine answers"),
        ("diversity", {"embedder": "nowhere"}, "embedder embeds"),
        ("diversity", {"device": "cuda:99"}, "torch device"),
        ("pool", {"path": "absent.txt"}, "pool"),
        ("reward", {"kind": "recorded", "path": "absent.parquet"}, "reward scores"),
    ],
)
def test_what_a_configuration_names_and_is_not_there_is_broken(section: str, keys: dict[str, str], name: str) -> None:
    tables = null_tables()
    tables[section] = {**({} if section in ("engine", "reward", "pool") else tables[section]), **keys}
    (finding,) = trials.findings(name, parse_config(tables))
    assert finding.ok is False
    assert finding.remedy == f"see [{section}] in the configuration"


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_engines_answer() -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("sentence_transformers")
    pull("smollm2-135m")
    pull("minilm")
    findings = named(examine())
    assert {name: findings[name].ok for name in PROBED} == dict.fromkeys(PROBED, True)
    assert findings["MiniLM embeds"].detail == "384 dimensions"


@pytest.mark.parametrize("table", ["engine", "reward"])
def test_a_server_that_takes_requests_and_answers_none_is_broken(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_trials, "_TRIAL_SECONDS", 2.0)
    with HttpEngine(hang) as server:
        tables = null_tables(run={"generations": 0})
        if table == "engine":
            tables["engine"] = {"kind": "openai", "model": "m", "base_url": server.url}
        else:
            tables["reward"] = {"kind": "classifier", "model": "m", "base_url": server.url}
        name = {"engine": "engine answers", "reward": "reward scores"}[table]
        found = named(trials.findings(name, parse_config(tables)))[name]
    assert found.ok is False
    assert "has accepted a request, and not answered within 2 s" in found.detail
    assert found.remedy
