"""Whole runs on servers that lie: each ends in one line that says what was wrong, or as an honest run does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
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
import os, sys
from fittest.evo.backends.openai import OpenAI
from fittest.fitness.rewards.http import HttpReward
from fittest.fitness.rewards.served import ServedReward
from fittest.runs.cli import main
os.dup2(1, 2)
for folder, patience in zip(sys.argv[1::2], sys.argv[2::2]):
    for kind in (OpenAI, HttpReward, ServedReward):
        kind.__init__.__kwdefaults__["patience"] = float(patience)
    try:
        main(["run", f"{folder}/run.toml", "--out", f"{folder}/run"], prog_name="fittest")
    except SystemExit as end:
        sys.stdout.flush()
        print(f"@@{end.code}", flush=True)
"""
# a process takes longer to begin than a run takes
_TOLD_TO_ONE_PROCESS = 11

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


def config_of(server: LyingServer, name: str, lie: Lie, folder: Path) -> None:
    """A small run; twenty prompts have to be refused in a row before that is an error."""
    # who waits for a pause must be answered within `timeout` after it, however busy the machine is
    url, timeout = server.url(name), 10.0 if name.startswith("busy") else _TIMEOUT
    tables = null_tables(
        run={"generations": 1},
        pool={"limit": 26 if lie.error else 8},
        operators={"offspring": 6, "form": "completion"},
        engine={
            "kind": "openai", "model": "m", "base_url": f"{url}/v1", "timeout": timeout,
            "sampling": {"n": 2, "max_tokens": 60}, "samples_per_request": 2 if lie.together else 1,
        },
    )  # fmt: skip
    if lie.reward == "http":
        tables["reward"] = {"kind": "http", "url": f"{url}/rewards", "timeout": timeout}
    elif lie.reward == "classify":
        tables["reward"] = {"kind": "classifier", "model": "m", "base_url": url, "timeout": timeout}
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(tomli_w.dumps(tables))


def tables_in(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {str(file.relative_to(folder)): pl.read_parquet(file).rows() for file in sorted(folder.rglob("*.parquet"))}


def ended_here(folder: Path) -> Ended:
    """What a run in this process ends with."""
    result = CliRunner().invoke(main, ["run", str(folder / "run.toml"), "--out", str(folder / "run")])
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


class Honest:
    """What honest runs end with; each is run when it is first compared with."""

    def __init__(self, server: LyingServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._known: dict[str, Ended] = {}

    def of(self, lie: Lie) -> Ended | None:
        if lie.error is not None:
            return None
        name = "no-usage" if lie.no_usage else "honest"
        form = f"{name}-{lie.together}-{lie.reward}"
        if form not in self._known:
            config_of(self._server, name, lie, self._folder / form)
            ended = self._known[form] = ended_here(self._folder / form)
            assert ended.status == 0, ended.said
            assert len(ended.tables) >= 5
        return self._known[form]


@pytest.fixture(scope="module")
def honest(liar: LyingServer, tmp_path_factory: pytest.TempPathFactory) -> Honest:
    return Honest(liar, tmp_path_factory.mktemp("honest"))


def test_there_are_as_many_lies_as_the_documentation_says() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for page in ("security.md", "design/feeding.md"):
        assert f"lies in {len(LIES)} ways" in (docs / page).read_text()


@pytest.mark.parametrize("name", QUICK)
def test_a_server_that_lies_is_named_or_changes_nothing(
    name: str, liar: LyingServer, honest: Honest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = LIES[name]
    monkeypatch.setattr(servers._jitter, "uniform", lambda low, high: 0.1)
    for kind in (OpenAI, HttpReward, ServedReward):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "patience", lie.patience)
    expected = honest.of(lie)
    config_of(liar, name, lie, tmp_path / name)
    ended = ended_here(tmp_path / name)
    assert liar.told[name], name
    judge(name, lie, ended, expected)


def ended_in_a_process(server: LyingServer, names: Sequence[str], folder: Path) -> tuple[dict[str, Ended], float]:
    """What runs from the command line end with, and the peak memory of their process in MiB."""
    arguments: list[object] = []
    for name in names:
        config_of(server, name, LIES[name], folder / name)
        arguments += [folder / name, LIES[name].patience]
    ended = confined([sys.executable, "-c", _PROGRAM, *map(str, arguments)], seconds=300)
    assert ended.status == 0, ended.stderr + ended.stdout
    statuses = [int(status) for status in re.findall(r"^@@(\d+)$", ended.stdout, flags=re.MULTILINE)]
    said = re.split(r"^@@\d+$", ended.stdout, flags=re.MULTILINE)
    found = zip(names, statuses, said[:-1], strict=True)
    return {
        name: Ended(status, words, tables_in(folder / name / "run")) for name, status, words in found
    }, ended.peak_mib


def _faults(server: LyingServer, names: Sequence[str], honest: Honest, folder: Path) -> Iterator[str]:
    """What is wrong with how runs end that are told these lies."""
    ended, peak_mib = ended_in_a_process(server, names, folder)
    if peak_mib > MOST_MIB:
        yield f"{names}: {peak_mib:.0f} MiB"
    for name in names:
        if not server.told[name]:
            yield f"{name}: nothing was asked"
        try:
            judge(name, LIES[name], ended[name], honest.of(LIES[name]))
        except AssertionError as error:
            yield f"{name}: {error}"


@pytest.mark.attack
def test_whatever_a_server_sends_memory_is_bounded_and_no_traceback_is_seen(
    liar: LyingServer, honest: Honest, tmp_path: Path
) -> None:
    """All lies, told to processes of their own; two at a time."""
    assert len(LIES) >= 56
    names = list(LIES)
    some = [names[start : start + _TOLD_TO_ONE_PROCESS] for start in range(0, len(names), _TOLD_TO_ONE_PROCESS)]
    for lie in LIES.values():
        honest.of(lie)
    with ThreadPoolExecutor(2) as pool:
        faults = pool.map(lambda names: list(_faults(liar, names, honest, tmp_path)), some)
        assert [fault for of_some in faults for fault in of_some] == []
