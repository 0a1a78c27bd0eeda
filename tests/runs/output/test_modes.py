"""Whatever holds prompts, answers or requests is made for its owner alone, under any umask."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner

from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.atomic import write_text
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.salvage import salvaged
from tests.conftest import null_tables


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct, autouse=True)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert files
    return [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) != 0o600]


def test_all_that_the_commands_write_is_their_users_own(tmp_path: Path) -> None:
    config = tmp_path.parent / f"{tmp_path.name}.toml"
    config.write_text(tomli_w.dumps(null_tables(run={"generations": 1})))
    folder = tmp_path / "run"
    for arguments in (
        ["run", config, "--out", folder],
        ["filter", folder, "--out", tmp_path / "filtered"],
        ["ablate", folder, "--out", tmp_path / "ablated"],
        ["export", folder, "--to", "trl-preference", "--out", tmp_path / "deep" / "pairs.jsonl"],
        ["export", folder, "--to", "prompts", "--out", tmp_path / "prompts.parquet"],
    ):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
    assert {"journal.sqlite", "run.toml", "pairs.jsonl", "prompts.parquet"} <= {
        path.name for path in tmp_path.rglob("*")
    }
    assert open_to_others(tmp_path) == []


def test_the_files_beside_an_open_journal_are_as_private(tmp_path: Path) -> None:
    with SqliteJournal(tmp_path / "journal.sqlite") as journal:
        journal.record_meta("proposal_form", "chat")
        assert {path.name for path in tmp_path.iterdir()} == {
            "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm",
        }  # fmt: skip
        assert open_to_others(tmp_path) == []


def test_what_is_saved_of_a_damaged_journal_is_as_private(tmp_path: Path) -> None:
    run(parse_config(null_tables(run={"generations": 0})), tmp_path)
    salvaged(tmp_path / "journal.sqlite", sqlite3.DatabaseError("damaged"))
    assert (tmp_path / "journal.salvaged.sqlite").exists()
    assert open_to_others(tmp_path) == []


def test_a_file_that_is_replaced_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.touch(mode=0o666)
    write_text(path, "x")
    assert open_to_others(tmp_path) == []


def test_a_journal_that_was_opened_to_a_group_stays_as_its_owner_left_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    path.chmod(0o640)
    SqliteJournal(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
