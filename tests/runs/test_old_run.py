"""A run of an earlier fittest, kept here, goes on loading: read, exported, and resumed from its journal."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from fittest.runs.cli import main

OLD = Path(__file__).parent / "old"


@pytest.fixture(params=sorted(folder.name for folder in OLD.iterdir()))
def old_run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(OLD / request.param, tmp_path / "run")


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
    for file in [*old_run.glob("*.parquet"), *old_run.glob("*.json"), *(old_run / "generations").iterdir()]:
        file.unlink()
    resumed = CliRunner().invoke(main, ["run", str(old_run), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert pl.read_parquet(old_run / "generations" / "0000.parquet").equals(pool)
    with sqlite3.connect(old_run / "journal.sqlite") as journal:
        query = "SELECT count(*) FROM issued JOIN replies USING (key, sample) WHERE issued.session > replies.session"
        assert journal.execute(query).fetchone() == (0,)
