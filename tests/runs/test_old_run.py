"""Runs and journals of earlier fittests, kept here, go on loading: read, exported, resumed, gone on with, replayed.

Each folder is named for the schema of its journal and was written by the code of that time, with the null engine and a
small page size; only the path of the pool was made relative. The numbers in `measured-v2` are what `Odds` and `Losses`
give, kept by the judges and filters of schema 2 for a wording named "old".
"""

from __future__ import annotations

import asyncio
import math
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fittest.evo.records import Missing
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Order
from fittest.fitness.rewards.pairwise import LikelihoodJudge
from fittest.runs.asking import journal_at
from fittest.runs.cli import main
from fittest.runs.filters.baselines import JournalledLikelihood
from fittest.runs.judge.eval import JournalledVerdicts

OLD = Path(__file__).parent / "old"
NAMES = ("survivors.parquet", "pairs.jsonl", "generations/0000.parquet", "generations/0001.parquet")
RUNS = sorted(folder.name for folder in OLD.glob("run-*"))
RACED = [name for name in RUNS if name != "run-v1"]


@pytest.fixture(params=RUNS)
def old_run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(OLD / request.param, tmp_path / "run")


def without_tables(run: Path) -> Path:
    """Lose everything but journal, configuration and pool."""
    for file in [*run.glob("*.parquet"), *run.glob("*.json"), *(run / "generations").iterdir()]:
        file.unlink()
    return run


def resumed(run: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(run), "--resume"])
    assert result.exit_code == 0, result.output


def same_table(one: Path, other: Path) -> bool:
    """Whether two tables hold the same; a later fittest may have added columns to one of them."""
    if one.suffix != ".parquet":
        return one.read_text() == other.read_text()
    old, new = pl.read_parquet(one), pl.read_parquet(other)
    return new.select(old.columns).equals(old)


def sent(run: Path, session: int) -> int:
    """Requests that a session sent to the engine."""
    with closing(sqlite3.connect(run / "journal.sqlite")) as journal:
        (count,) = journal.execute("SELECT count(*) FROM issued WHERE session = ?", (session,)).fetchone()
    return int(count)


def count(run: Path, table: str) -> int:
    with closing(sqlite3.connect(run / "journal.sqlite")) as journal:
        return int(journal.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_there_is_a_run_of_each_schema_and_mode() -> None:
    assert RUNS == ["run-v1", "run-v2", "run-v2-steady-state"]


def test_it_is_read_and_exported(old_run: Path, tmp_path: Path) -> None:
    status = CliRunner().invoke(main, ["status", str(old_run)])
    assert status.exit_code == 0, status.output
    assert "1 of 1 generations of offspring finished" in status.output
    out = tmp_path / "pairs.jsonl"
    exported = CliRunner().invoke(main, ["export", str(old_run), "--to", "trl-preference", "--out", str(out)])
    assert exported.exit_code == 0, exported.output
    assert out.read_text().count("\n") == (old_run / "pairs.jsonl").read_text().count("\n")


def test_it_is_resumed_from_its_journal_without_asking_for_the_pool_again(old_run: Path) -> None:
    """Everything but journal and configuration is lost; the pool's rollouts must come out of the journal."""
    pool = pl.read_parquet(old_run / "generations" / "0000.parquet")
    resumed(without_tables(old_run))
    assert pl.read_parquet(old_run / "generations" / "0000.parquet").select(pool.columns).equals(pool)
    with closing(sqlite3.connect(old_run / "journal.sqlite")) as journal:
        query = "SELECT count(*) FROM issued JOIN replies USING (key, sample) WHERE issued.session > replies.session"
        assert journal.execute(query).fetchone() == (0,)


@pytest.mark.parametrize("name", RACED)
def test_a_resumed_run_asks_nothing_and_has_the_same_tables(name: str, tmp_path: Path) -> None:
    run = shutil.copytree(OLD / name, tmp_path / "run")
    kept = count(run, "rewards"), count(run, "embeddings")
    resumed(without_tables(run))
    assert sent(run, session=2) == 0
    assert (count(run, "measurements"), count(run, "embeddings")) == kept
    assert all(same_table(OLD / name / table, run / table) for table in NAMES)


@pytest.mark.parametrize("name", RACED)
def test_it_goes_on_to_a_further_generation_and_both_parts_are_kept(name: str, tmp_path: Path) -> None:
    run = shutil.copytree(OLD / name, tmp_path / "run")
    settings = (run / "run.toml").read_text()
    (run / "run.toml").write_text(settings.replace("generations = 1\n", "generations = 2\n"))
    resumed(without_tables(run))
    assert sent(run, session=2) > 0
    assert all(same_table(OLD / name / table, run / table) for table in NAMES[2:])
    tables = {table: (run / table).read_bytes() for table in (*NAMES, "generations/0002.parquet")}
    resumed(without_tables(run))
    assert sent(run, session=3) == 0
    assert tables == {table: (run / table).read_bytes() for table in tables}


@pytest.mark.parametrize("name", RUNS)
def test_a_replay_of_its_journal_leaves_it_as_it_is(name: str, tmp_path: Path) -> None:
    recording = tmp_path / "recorded.sqlite"
    shutil.copy(OLD / name / "journal.sqlite", recording)
    before = recording.read_bytes()
    config = tmp_path / "run.toml"
    shutil.copy(OLD / name / "pool.jsonl", tmp_path)
    settings = (OLD / name / "run.toml").read_text().replace("latency = 0.004\n", "")
    config.write_text(settings.replace('kind = "null"\nslots', 'kind = "replay"\npath = "recorded.sqlite"\nslots'))
    result = CliRunner().invoke(main, ["run", str(config), "--out", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    tables = NAMES if name in RACED else NAMES[2:3]
    assert all(same_table(OLD / name / table, tmp_path / "again" / table) for table in tables)
    assert recording.read_bytes() == before


class Odds:
    """Must not be asked: the journal knows its numbers."""

    fingerprint = "odds"

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        pytest.fail("log-odds in the journal were computed again")


class Losses:
    """Must not be asked: the journal knows its numbers."""

    fingerprint = "losses"

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        pytest.fail("losses in the journal were computed again")


def test_log_odds_chances_and_losses_that_were_kept_as_rewards_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("runs.judge.eval", "fitness.rewards.pairwise"):
        monkeypatch.setattr(f"fittest.{module}.wording_id", lambda: "old")
    path = tmp_path / "journal.sqlite"
    shutil.copy(OLD / "measured-v2" / "journal.sqlite", path)
    read, too_long = (Pair("Name a sea.", answer, "No.", "A") for answer in ("The Baltic Sea.", "A long answer."))
    with journal_at(path) as journal:
        verdicts = JournalledVerdicts(Odds(), journal)
        for begun in ("", "The first"):
            assert (verdicts.log_odds(read, "AB", begun), verdicts.log_odds(read, "BA", begun)) == (3.0, -3.0)
            assert math.isnan(verdicts.log_odds(too_long, "AB", begun))
        judge = LikelihoodJudge(Odds())
        judge.keep_in(journal)

        async def ask(requests: object) -> list[object]:
            pytest.fail("the engine was asked")

        chances = asyncio.run(judge.chances([read, too_long], ask))  # type: ignore[arg-type]
        assert chances == [1 / (1 + math.exp(-3)), Missing("longer than the judge reads")]
    texts = ["The Baltic Sea.", "The Baltic Sea.", "A"]
    losses = JournalledLikelihood(Losses(), path, together=2).losses(["Name a sea.", None, None], texts)
    assert losses.tolist() == [2.5625, 1.875, pytest.approx(math.nan, nan_ok=True)]
