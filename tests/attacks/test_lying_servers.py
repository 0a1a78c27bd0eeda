"""Whole runs on servers that lie: each ends in one line that says what was wrong, or as an honest run does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

pytest.importorskip("aiohttp")

from click.testing import CliRunner

from fittest.evo.backends import servers
from fittest.evo.backends.openai import OpenAI
from fittest.fitness.rewards.http import HttpReward
from fittest.fitness.rewards.served import ServedReward
from fittest.runs.cli import main
from tests.attacks.confined import MOST_MIB, confined
from tests.attacks.lying_server import LIES, Lie, LyingServer
from tests.conftest import null_tables

_TIMEOUT = 1.5
_PROGRAM = """
import os
from fittest.evo.backends.openai import OpenAI
from fittest.fitness.rewards.http import HttpReward
from fittest.fitness.rewards.served import ServedReward
from fittest.runs.cli import main
for kind in (OpenAI, HttpReward, ServedReward):
    kind.__init__.__kwdefaults__["patience"] = float(os.environ["PATIENCE"])
main(prog_name="fittest")
"""

# each of another kind; together they take some seconds
QUICK = (
    "busy-past", "busy-till-9999", "no-content", "redirect-loop", "error-for-the-terminal", "error-nested", "upgrade",
    "endless-body", "gzip-bomb", "deflate-of-deflate", "packed-though-not-asked", "shorter-than-sent",
    "chunks-of-rubbish", "headers-without-end", "resets-in-the-body", "two-replies-to-one-request", "cookies",
    "deep-json", "a-million-choices", "number-of-5000-digits", "text-of-ten-megabytes", "text-of-a-number",
    "usage-2-to-62", "usage-10-to-30", "choices-repeated", "reward-nested", "classify-deep",
)  # fmt: skip


@pytest.fixture(scope="module")
def liar() -> Iterator[LyingServer]:
    with LyingServer() as server:
        yield server


@dataclass(frozen=True)
class Ended:
    status: int
    said: str
    tables: dict[str, list[tuple[Any, ...]]]


def config_of(server: LyingServer, lie: Lie, folder: Path) -> Path:
    """A small run; twenty prompts have to be refused in a row before that is an error."""
    tables = null_tables(
        run={"generations": 1},
        pool={"limit": 26 if lie.error else 8},
        operators={"offspring": 6, "form": "completion"},
        engine={
            "kind": "openai", "model": "m", "base_url": f"{server.url}/v1", "timeout": _TIMEOUT,
            "sampling": {"n": 2, "max_tokens": 60}, "samples_per_request": 2 if lie.together else 1,
        },
    )  # fmt: skip
    if lie.reward == "http":
        tables["reward"] = {"kind": "http", "url": f"{server.url}/rewards", "timeout": _TIMEOUT}
    elif lie.reward == "classify":
        tables["reward"] = {"kind": "classifier", "model": "m", "base_url": server.url, "timeout": _TIMEOUT}
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(tomli_w.dumps(tables))
    return folder / "run.toml"


def tables_in(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {str(file.relative_to(folder)): pl.read_parquet(file).rows() for file in sorted(folder.rglob("*.parquet"))}


def ended_here(server: LyingServer, lie: Lie, folder: Path, *, honest: bool = False) -> Ended:
    """What a run in this process ends with."""
    server.begin(None if honest else lie, usage=not lie.no_usage)
    config = config_of(server, lie, folder)
    result = CliRunner().invoke(main, ["run", str(config), "--out", str(folder / "run")])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(result.exit_code, result.output, tables_in(folder / "run"))


def judge(name: str, lie: Lie, ended: Ended, honest: Ended | None) -> None:
    """Each lie ends in a named error on one line, or changes nothing."""
    assert not set(ended.said) & set("\x1b\x9b\x07\u202e\x00"), name
    assert "Traceback" not in ended.said
    assert "Exception" not in ended.said
    if lie.error is None:
        assert ended.status == 0, (name, ended.said)
        assert honest is not None
        assert ended.tables == honest.tables, name
    else:
        assert ended.status == 2, (name, ended.said)
        last = ended.said.strip().splitlines()[-1]
        assert last.startswith("fittest: "), (name, ended.said)
        assert lie.error in last, (name, last)
        assert len(last) < 1000, name


@pytest.fixture(scope="module")
def honest(liar: LyingServer, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], Ended]:
    """What honest runs end with, by what they are asked."""
    return {}


def _honest_for(liar: LyingServer, lie: Lie, known: dict[tuple[Any, ...], Ended], folder: Path) -> Ended:
    form = (lie.no_usage, lie.together, lie.reward, lie.error is None)
    if form not in known:
        known[form] = ended_here(liar, lie, folder, honest=True)
        assert known[form].status == 0, known[form].said
        assert len(known[form].tables) >= 5
    return known[form]


@pytest.mark.parametrize("name", QUICK)
def test_a_server_that_lies_is_named_or_changes_nothing(
    name: str,
    liar: LyingServer,
    honest: dict[tuple[Any, ...], Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers._jitter, "uniform", lambda low, high: 0.1)
    for kind in (OpenAI, HttpReward, ServedReward):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "patience", LIES[name].patience)
    lie = LIES[name]
    expected = None if lie.error else _honest_for(liar, lie, honest, tmp_path / "honest")
    ended = ended_here(liar, lie, tmp_path / "lied")
    assert liar.told, name
    judge(name, lie, ended, expected)


def ended_in_a_process(server: LyingServer, name: str, folder: Path) -> tuple[Ended, float]:
    """What a run from the command line ends with, and its peak memory in MiB."""
    lie = LIES[name]
    server.begin(lie, usage=not lie.no_usage)
    config = config_of(server, lie, folder)
    command = [sys.executable, "-c", _PROGRAM, "run", str(config), "--out", str(folder / "run")]
    ended = confined(command, seconds=120, env={"PATIENCE": str(lie.patience)})
    return Ended(ended.status, ended.stdout + ended.stderr, tables_in(folder / "run")), ended.peak_mib


@pytest.mark.attack
def test_whatever_a_server_sends_memory_is_bounded_and_no_traceback_is_seen(
    honest: dict[tuple[Any, ...], Ended], tmp_path: Path
) -> None:
    """All lies, each told to a process of its own; two at a time."""
    with LyingServer() as first:
        for name, lie in LIES.items():
            if lie.error is None:
                _honest_for(first, lie, honest, tmp_path / f"honest-{name}")

    def tried(name: str) -> str | None:
        lie = LIES[name]
        form = (lie.no_usage, lie.together, lie.reward, lie.error is None)
        with LyingServer() as server:
            ended, peak_mib = ended_in_a_process(server, name, tmp_path / name)
            told = server.told
        try:
            assert told, f"{name}: nothing was asked"
            assert peak_mib < MOST_MIB, f"{name}: {peak_mib:.0f} MiB"
            judge(name, lie, ended, honest.get(form))
        except AssertionError as error:
            return f"{name}: {error}"
        return None

    assert len(LIES) >= 56
    with ThreadPoolExecutor(2) as pool:
        assert [found for found in pool.map(tried, LIES) if found] == []
