"""Killed at any instant, a run goes on where it was, asks nothing twice, and ends with the same tables."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from fittest.runs.config import parse_config
from fittest.runs.session import run
from tests.conftest import null_tables

TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json", "card.md")
KILLS = 20

# a fork server that has everything imported starts a run in milliseconds, so the kills hit the run and not the imports
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["torch", "sklearn.feature_extraction.text", "py3langid", "fittest.runs.session", "tests.conftest"]
)


def evolve(tables: dict[str, Any], out: Path) -> None:
    run(parse_config(tables), out, resume=True)


def start(tables: dict[str, Any], out: Path) -> BaseProcess:
    process = context.Process(target=evolve, args=(tables, out))
    process.start()
    return process


def replies(out: Path) -> int:
    journal = out / "journal.sqlite"
    if not journal.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # its tables are not made yet


def kill_at(process: BaseProcess, out: Path, wanted: int, *, patience: float = 60.0) -> None:
    """SIGKILL once so many replies are in the journal."""
    deadline = time.monotonic() + patience
    while process.is_alive() and replies(out) < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def tables_of(out: Path) -> dict[str, bytes]:
    sealed = [file for name in ("generations", "responses") for file in sorted((out / name).glob("*.parquet"))]
    files = [out / name for name in TABLES] + sealed
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def asked_again(out: Path) -> int:
    """Requests sent in a later session than the one that got their reply."""
    with closing(sqlite3.connect(out / "journal.sqlite")) as database:
        query = "SELECT count(*) FROM issued JOIN replies USING (key, sample) WHERE issued.session > replies.session"
        return int(database.execute(query).fetchone()[0])


def sent(out: Path) -> tuple[int, int]:
    """All requests sent, and the different ones among them."""
    with closing(sqlite3.connect(out / "journal.sqlite")) as database:
        query = "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT key, sample FROM issued)) FROM issued"
        total, different = database.execute(query).fetchone()
        return int(total), int(different)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    evolve(slow_tables(), out)
    return tables_of(out), replies(out)


def slow_tables() -> dict[str, Any]:
    return null_tables(engine={"latency": 0.004})


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_run_resumes_to_the_same_tables(
    kill: int, uninterrupted: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    expected, total = uninterrupted
    out = tmp_path / "run"
    wanted = random.Random(kill).randrange(1, total)
    kill_at(start(slow_tables(), out), out, wanted)
    before = replies(out)
    assert wanted <= before < total

    again = start(slow_tables(), out)
    again.join()

    assert again.exitcode == 0
    assert tables_of(out) == expected
    assert asked_again(out) == 0
    everything, different = sent(out)
    assert everything - different <= slow_tables()["engine"]["slots"]


@pytest.mark.slow
def test_a_confirmed_run_killed_again_and_again_still_arrives(tmp_path: Path) -> None:
    tables = {**slow_tables(), "selection": {"quantile": 0.1, "confirm": 2}}
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    evolve(tables, whole)
    total = replies(whole)
    for wanted in range(total // 12, total, total // 12):
        kill_at(start(tables, killed), killed, wanted)
    evolve(tables, killed)
    assert tables_of(killed) == tables_of(whole)
    assert "responses/retest.parquet" in tables_of(killed)
    assert asked_again(killed) == 0


@pytest.mark.slow
def test_a_run_killed_again_and_again_still_arrives(
    uninterrupted: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    expected, total = uninterrupted
    out = tmp_path / "run"
    for wanted in range(total // 6, total, total // 6):
        kill_at(start(slow_tables(), out), out, wanted)
    evolve(slow_tables(), out)
    assert tables_of(out) == expected
    assert asked_again(out) == 0


@pytest.mark.embedded
@pytest.mark.slow
def test_a_run_with_the_real_embedder_and_head_resumes_in_the_middle(minilm_folder: Path, tmp_path: Path) -> None:
    tables = null_tables(
        pool={"limit": 24},
        operators={"offspring": 8},
        reward={"kind": "head"},
        diversity={"embedder": str(minilm_folder), "device": "cpu"},
        engine={"latency": 0.004},
    )
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    evolve(tables, whole)
    kill_at(start(tables, killed), killed, replies(whole) // 2)
    assert 0 < replies(killed) < replies(whole)

    evolve(tables, killed)

    assert tables_of(killed) == tables_of(whole)
    assert asked_again(killed) == 0
