"""What is damaged or lost in a journal or in a sealed table is noticed, named, and asked for again or made anew."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from fittest.evo.errors import FittestError
from fittest.evo.records import Completion, Failure, Milestone
from fittest.runs.cli import main
from fittest.runs.config import parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.journal_pages import rows_in
from fittest.runs.output.journal_rows import checksum
from fittest.runs.session import run
from tests.attacks.confined import MOST_MIB, confined
from tests.conftest import null_tables

OLD = Path(__file__).parents[1] / "old"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 248 replies or so; never to be touched."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(parse_config(null_tables(pool={"limit": 24}, run={"generations": 1})), folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it in a folder with an odd name."""
    return Path(shutil.copytree(finished, tmp_path / "run#1 %41?"))


@contextmanager
def edited(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database, database:
        yield database


def fittest(*arguments: object) -> tuple[int, str]:
    """The status and the output of a verb."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def tables(folder: Path) -> dict[str, bytes]:
    names = ("*.parquet", "generations/*.parquet", "responses/*.parquet", "pairs.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}


def test_the_checksum_of_a_row_does_not_change_between_versions() -> None:
    """Journals would be taken for damaged."""
    assert checksum(("key", 3, "naïve 中\0'\"\n", None, 0.1, b"\x00\xff")) == 2631688460


def test_a_row_whose_content_has_changed_is_named_told_and_asked_for_again(folder: Path, finished: Path) -> None:
    with edited(folder) as database:
        database.execute("UPDATE replies SET text = 'another' WHERE rowid IN (5, 6)")
        (total,) = database.execute("SELECT count(*) FROM replies").fetchone()
        ((key, sample),) = database.execute("SELECT key, sample FROM replies WHERE rowid = 5")
    (folder / "summary.json").unlink()
    status, said = fittest("run", folder, "--resume")
    assert status == 0
    told = f"warning: journal.sqlite: 2 of {total} replies are damaged or lost ({key[:24]}/{sample}, "
    # once before anything is asked, and once with the results
    assert said.count(told) == 2
    assert tables(folder) == tables(finished)
    with edited(folder) as database:
        assert database.execute("SELECT count(*) FROM issued WHERE session = 2").fetchone() == (2,)


@pytest.mark.parametrize(
    ("table", "key"), [("replies", "key"), ("measurements", "subject"), ("embeddings", "text"), ("meta", "name")]
)
def test_rows_that_are_gone_are_missed(table: str, key: str, folder: Path) -> None:
    with edited(folder) as database:
        database.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} LIMIT 2)")
    status, said = fittest("check", folder, "--deep")
    assert status == 2
    assert f"{table}: " in said
    assert re.search(r"fittest: journal.sqlite: \d+ of \d+ .* are damaged or lost", said)


def test_a_journal_that_is_whole_passes_the_deep_check_which_says_what_it_read(folder: Path) -> None:
    status, said = fittest("check", folder, "--deep")
    assert status == 0, said
    with edited(folder) as database:
        (replies,) = database.execute("SELECT count(*) FROM replies").fetchone()
    assert f"replies: {replies} rows\n" in said
    assert "sealed tables: 7 compared with their hashes" in said


@pytest.mark.parametrize("name", ["run-v1", "run-v2", "run-v2-steady-state"])
def test_a_journal_of_an_earlier_schema_gets_its_checksums_when_it_is_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(OLD / name / "journal.sqlite", path)
    with SqliteJournal(path) as journal:
        assert not journal.mended
        (replies,) = journal._db.execute("SELECT count(*) FROM replies").fetchone()
    database = sqlite3.connect(path)
    for table in ("replies", "measurements", "embeddings", "milestones", "meta"):
        assert database.execute(f"SELECT count(*) FROM {table} WHERE checksum IS NULL").fetchone() == (0,)
    assert database.execute("SELECT rows FROM kept WHERE name = 'replies'").fetchone() == (replies,)
    database.execute("UPDATE replies SET text = 'another' WHERE key = (SELECT min(key) FROM replies)")
    database.commit()
    database.close()
    with SqliteJournal(path) as journal:
        assert any("replies are damaged or lost" in line for line in journal.damage())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("finish_reason", "'tired'"), ("text", "CAST(x'fffe41' AS TEXT)"), ("prompt_tokens", "'many'"),
        ("text", "NULL"), ("stage", "7"), ("at", "'noon'"),
    ],
)  # fmt: skip
def test_a_row_without_a_checksum_that_nothing_of_ours_has_written_is_not_taken(
    column: str, value: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(OLD / "run-v2" / "journal.sqlite", path)
    database = sqlite3.connect(path)
    if column == "stage":
        database.execute("ALTER TABLE replies ADD COLUMN stage TEXT")
    (before,) = database.execute("SELECT count(*) FROM replies").fetchone()
    ((key, sample),) = database.execute("SELECT key, sample FROM replies WHERE rowid = 3")
    database.execute(f"UPDATE replies SET {column} = {value} WHERE rowid = 3")
    database.commit()
    database.close()
    with SqliteJournal(path) as journal:
        assert journal.reply(key, sample) is None
        assert journal._db.execute("SELECT count(*) FROM replies").fetchone() == (before - 1,)


def test_an_index_that_lacks_a_row_is_made_anew(folder: Path) -> None:
    """A look-up by such an index would miss a reply that is there."""
    path = folder / "journal.sqlite"
    with edited(folder) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex%'").fetchone()
        identities = database.execute("SELECT key, sample FROM replies").fetchall()
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    pages = [start for start in range(0, len(content), size) if content[start] == 0x0A and start != (root - 1) * size]
    # a digit of a key in a leaf of the index
    for start in pages:
        place = content.find(identities[7][0].encode(), start, start + size)
        if place > 0 and content[start : start + size].count(b"sealed ") == 0:
            content[place + 63] ^= 0x01
            path.write_bytes(content)
            break
    with SqliteJournal(path) as journal:
        assert journal.is_indexed()
        assert all(journal.reply(*identity) is not None for identity in identities)


def test_a_damaged_log_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = SqliteJournal(path)
    for number in range(40):
        journal.exchange([(f"key {number}", 0, Completion("text " * 300, "stop", 1, 1))], [])
    # as a kill leaves it: the log is not written back
    copy = tmp_path / "killed" / "journal.sqlite"
    copy.parent.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    journal.close()
    log = copy.with_name("journal.sqlite-wal")
    content = bytearray(log.read_bytes())
    middle = 32 + 4120 * (len(content) // 4120 // 2)
    content[middle + 500] ^= 1
    log.write_bytes(content)
    with pytest.raises(
        FittestError, match=r"journal.sqlite-wal is damaged behind page \d+\); (3\d|40) replies could be"
    ):
        SqliteJournal(copy)


def test_a_log_that_was_removed_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    journal = SqliteJournal(path)
    journal._db.execute("PRAGMA wal_checkpoint").fetchone()
    journal.exchange([("a", 0, Completion("text", "stop", 1, 1))], [])
    for name in ("kept", "removed"):
        (tmp_path / name).mkdir()
        for ending in ("", "-wal") if name == "kept" else ("",):
            shutil.copy(f"{path}{ending}", tmp_path / name / f"journal.sqlite{ending}")
    journal.close()
    # who only reads takes nothing away
    SqliteJournal(tmp_path / "kept" / "journal.sqlite", read_only=True).close()
    with SqliteJournal(tmp_path / "kept" / "journal.sqlite") as kept:
        assert not kept.mended
        assert kept.reply("a", 0) is not None
    with SqliteJournal(tmp_path / "removed" / "journal.sqlite") as removed:
        assert removed.reply("a", 0) is None
        assert "-wal file is not there" in removed.damage()[0]


def test_most_of_a_truncated_journal_is_saved(folder: Path, finished: Path) -> None:
    path = folder / "journal.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    (folder / "summary.json").unlink()
    status, said = fittest("run", folder, "--resume")
    assert status == 2
    saved, total = map(int, re.findall(r"(\d+) of (\d+) replies could be read", said)[0])
    assert saved > 0.6 * total
    advice = re.search(r"To go on with them: (.*), and resume", said)
    assert advice is not None
    subprocess.run(advice[1], shell=True, check=True)
    status, said = fittest("run", folder, "--resume")
    assert status == 0, said
    assert f"{saved} of {total} replies were saved, and what was lost is asked for again" in said
    assert tables(folder) == tables(finished)


def test_a_journal_without_its_first_page_is_saved(folder: Path) -> None:
    path = folder / "journal.sqlite"
    content = bytearray(path.read_bytes())
    content[:4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(FittestError, match=r"\d+ replies could be read"):
        SqliteJournal(path)
    with SqliteJournal(folder / "journal.salvaged.sqlite") as saved:
        assert saved.meta("fingerprint") == "null:1"


def test_the_reader_of_pages_finds_what_sqlite_finds(tmp_path: Path) -> None:
    """Rows of every length, so that they end on their page, and on any number of others."""
    path = tmp_path / "journal.sqlite"
    chance = random.Random(7)
    replies = [(f"key {n:05d}", n % 3, Completion("é" * chance.randrange(9000), "stop", n, -1)) for n in range(300)]
    with SqliteJournal(path) as journal:
        journal.exchange(replies, [])  # type: ignore[arg-type]
        journal.record_measurements("reward", {f"{n:05d}": float(n) for n in range(500)})
        journal.record_embedding("embedder", "a", np.ones(5000, np.float32))
        for position in range(200):
            journal.record_milestone(position, Milestone("born", position))
        journal.record_meta("long", "value " * 2000)
        expected = {
            table: {tuple(row) for row in journal._db.execute(f"SELECT * FROM {table}")}
            for table in ("measurements", "embeddings", "milestones", "meta")
        }
        kept = set(journal._db.execute("SELECT key, sample, text, stage, checksum FROM replies"))
    found: dict[str, set[object]] = {}
    for row in rows_in(path):
        found.setdefault(row.table.name, set()).add(row.values)
    assert {(r[0], r[1], r[2], r[12], r[13]) for r in found["replies"]} == kept  # type: ignore[index]
    for table, rows in expected.items():
        assert found[table] == rows


def test_a_salvage_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        text = "text " * 20_000
        for start in range(0, 2000, 100):
            rows = [(f"key {n}", 0, Completion(text, "stop", 1, 1)) for n in range(start, start + 100)]
            journal.exchange(rows, [])
    with path.open("r+b") as file:
        file.seek(4096 * 50)
        file.write(bytes(4096))
    code = f"from fittest.runs.output.journal import SqliteJournal; SqliteJournal({str(path)!r})"
    ended = confined([sys.executable, "-c", code], seconds=120, cwd=Path(__file__).parents[3])
    assert "replies could be read" in ended.last_line
    assert ended.peak_mib < min(MOST_MIB, 400)


def test_a_damaged_recording_is_named_and_not_replayed(folder: Path, tmp_path: Path) -> None:
    with edited(folder) as database:
        database.execute("UPDATE replies SET text = 'another' WHERE rowid = 5")
    tables = null_tables(pool={"limit": 24}, run={"generations": 1})
    recording = {"kind": "replay", "path": str(folder / "journal.sqlite")}
    with pytest.raises(FittestError, match=r"1 of \d+ replies are damaged or lost \("):
        run(parse_config({**tables, "engine": {**tables["engine"], **recording}}), tmp_path / "again")
    assert not (tmp_path / "again" / "run.toml").exists()


@pytest.mark.parametrize("name", ["generations/0000.parquet", "responses/0001.parquet", "survivors.parquet"])
def test_a_damaged_table_is_refused_by_readers_and_made_anew_by_resume(
    name: str, folder: Path, finished: Path, tmp_path: Path
) -> None:
    path = folder / name
    frame = pl.read_parquet(path)
    column = "reward" if "reward" in frame.columns else "m1" if "m1" in frame.columns else "rejected_reward"
    frame.with_columns(pl.col(column) + 1).write_parquet(path)
    export = ("export", folder, "--to", "trl-preference", "--out", tmp_path / "pairs.jsonl")
    reader = export if name == "survivors.parquet" else ("filter", folder, "--out", tmp_path / "filtered")
    if name == "responses/0001.parquet":
        reader = (*reader, "--generation", "1")
    status, said = fittest(*reader)
    assert status == 2
    assert f"{name}: is not as the run wrote it" in said
    assert f"fittest run {shlex.quote(str(folder))} --resume" in said
    status, said = fittest("run", folder, "--resume")
    assert status == 0, said
    assert f"warning: {name} was damaged, and is made anew" in said
    assert tables(folder) == tables(finished)
    assert fittest(*reader)[0] == 0


def test_a_table_that_a_killed_process_did_not_put_in_its_place_is_no_damage(folder: Path, finished: Path) -> None:
    (folder / "generations" / "0001.parquet").unlink()
    status, said = fittest("run", folder, "--resume")
    assert status == 0, said
    assert "damaged" not in said
    assert tables(folder) == tables(finished)
    one, other = ((path / "card.md").read_text().splitlines()[1:] for path in (folder, finished))
    assert one == other


def test_a_journal_that_knows_nothing_of_a_sealed_generation_is_refused(folder: Path) -> None:
    (folder / "summary.json").unlink()
    (folder / "journal.sqlite").write_bytes(b"")
    status, said = fittest("run", folder, "--resume")
    assert status == 2
    assert said.count("\n") == 1
    assert "sealed" in said
    assert (folder / "journal.sqlite").stat().st_size == 0


def test_replies_that_are_forgotten_are_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        journal.exchange([("a", 0, Failure("busy")), ("b", 0, Completion("text", "stop", 1, 1))], [])
        journal.forget([("a", 0), ("b", 0)])
    with SqliteJournal(path) as journal:
        assert not journal.mended
        assert journal.reply("a", 0) is None
        assert journal.reply("b", 0) is not None
