"""The journal keeps what it was given, survives damage as far as it can, and says what is wrong."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.keys import request_key, response_key
from fittest.evo.records import Completion, Failure, Message, Milestone, Missing, Request, Sampling
from fittest.evo.spending import Spending
from fittest.runs.output import journal_schema
from fittest.runs.output.accounting import idle_fraction
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.journal_schema import SCHEMA, create_tables

OLD = Path(__file__).parents[1] / "old"
"""Journals of every schema; tests/runs/test_old_run.py says how they came to be."""


def request(seed: int, **changes: object) -> Request:
    given: dict[str, object] = {
        "stage": "rollout", "sampling": Sampling(), "seed": seed, "messages": (Message("user", "hello"),),
    }  # fmt: skip
    return Request(**{**given, **changes})  # type: ignore[arg-type]


def test_what_was_kept_is_found_by_the_next_session(tmp_path: Path) -> None:
    first = SqliteJournal(tmp_path / "journal.sqlite")
    reply = Completion("naïve\0text", "length", 3, 4)
    first.exchange([("a", 0, reply), ("a", 1, Failure("too long"))], [])
    first.record_measurements("head", {"p": 0.1 + 0.2, "q": Missing("reward is NaN")})
    vector = np.array([0.25, -1e-7], dtype=np.float32)
    first.record_embedding("minilm", "text", vector)
    first.close()

    second = SqliteJournal(tmp_path / "journal.sqlite")
    assert second.session == first.session + 1
    assert second.reply("a", 0) == reply
    assert second.reply("a", 1) == Failure("too long")
    assert second.reply("a", 2) is None
    assert second.measurements("head", ["p", "q", "r"]) == {"p": 0.1 + 0.2, "q": Missing("reward is NaN")}
    assert second.measurements("other", ["p"]) == {}
    found = second.embedding("minilm", "text")
    assert found is not None
    assert found.tobytes() == vector.tobytes()
    second.close()


def test_any_number_of_measurements_is_looked_up_at_once() -> None:
    journal = SqliteJournal(":memory:")
    journal._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    subjects = {f"subject {i}": float(i) for i in range(40_000)}
    journal.record_measurements("losses", subjects)
    assert journal.measurements("losses", [*subjects, "another"]) == subjects
    assert journal.measurements("losses", []) == {}


def test_the_first_reply_stands() -> None:
    journal = SqliteJournal(":memory:")
    journal.exchange([("a", 0, Completion("first", "stop", 1, 1))], [])
    journal.exchange([("a", 0, Completion("second", "stop", 1, 1))], [])
    found = journal.reply("a", 0)
    assert isinstance(found, Completion)
    assert found.text == "first"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"stage": "proposal"},
        {"messages": (Message("user", "hello!"),)},
        {"messages": (Message("system", "hello"),)},
        {"messages": (), "prompt": "hello"},
        {"sampling": Sampling(temperature=0.7)},
        {"sampling": Sampling(stop=("</task>",))},
        {"sampling": Sampling(max_tokens=255)},
    ],
)
def test_everything_that_determines_a_reply_changes_its_key(change: dict[str, object]) -> None:
    assert request_key("model", request(1)) == request_key("model", request(1))
    assert request_key("model", request(1)) != request_key("model", request(**{"seed": 1, **change}))  # type: ignore[arg-type]
    assert request_key("model", request(1)) != request_key("other model", request(1))


def test_the_key_does_not_change_between_versions() -> None:
    """Old journals must go on answering; a new key form needs a new KEY_VERSION and a migration."""
    assert request_key("model", request(1)) == "2c63563bc24436a9a0ee1856690aa14ca5f975a4cdb15c1c8a92f4282c68c321"


def test_the_key_of_a_response_does_not_change_between_versions() -> None:
    """Rewards are found under it, and the seeds of a judge's votes follow from it."""
    assert response_key("ab", "cé") == "6df90a547121a55e75e40c69e625105ac71a4aadf737bea885608ecc798f8466"
    assert response_key("ab", "c") != response_key("a", "bc")


def test_a_journal_of_schema_1_is_read_as_it_is_and_brought_up_to_date_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        for column in ("cached_tokens", "seconds", "reasoning", "stage", "checksum"):
            database.execute(f"ALTER TABLE replies DROP COLUMN {column}")
        database.execute("INSERT INTO replies VALUES ('a', 0, 'old', 'stop', 3, 4, NULL, 1, 0.5)")
        database.execute("PRAGMA user_version = 1")

    old = SqliteJournal(path, read_only=True)
    assert old.reply("a", 0) == Completion("old", "stop", 3, 4)
    old.close()

    journal = SqliteJournal(path)
    journal.exchange([("b", 0, Completion("new", "stop", 3, 4, cached_tokens=2, seconds=1.5))], [])
    journal.close()
    again = SqliteJournal(path)
    assert again.reply("a", 0) == Completion("old", "stop", 3, 4)
    new = again.reply("b", 0)
    assert isinstance(new, Completion)
    assert (new.cached_tokens, new.seconds) == (2, 1.5)
    again.close()


def test_a_journal_that_was_killed_between_two_new_columns_gets_the_other_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE replies DROP COLUMN seconds")
        database.execute("PRAGMA user_version = 1")
    journal = SqliteJournal(path)
    journal.exchange([("b", 0, Completion("new", "stop", 3, 4, cached_tokens=2, seconds=1.5))], [])
    assert journal.spent().total == Spending(1, 3, 2, 4, 1.5)
    journal.close()


def layout(path: Path) -> dict[str, list[str]]:
    """The columns of every table of a file."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in sorted(tables)}


def contents(journal: SqliteJournal, path: Path) -> dict[str, object]:
    """Everything that an old journal holds, as the journal gives it; what to ask for is read out of the old file."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as old:
        asked = old.execute("SELECT key, sample FROM replies ORDER BY key, sample").fetchall()
        subjects = [pair for (pair,) in old.execute("SELECT pair FROM rewards")]
    return {
        "replies": [journal.reply(*identity) for identity in asked],
        "measurements": sorted(journal.measurements("null:1", subjects).items()),
        "milestones": journal.milestones(),
        "fingerprint": journal.meta("fingerprint"),
        "spent": journal.spent(),
        "in_flight": list(journal.in_flight_changes()),
    }


@pytest.mark.parametrize("name", ["run-v1", "run-v2", "run-v2-steady-state"])
def test_a_journal_of_each_schema_gives_the_same_when_it_is_only_read_and_when_it_is_brought_up_to_date(
    name: str, tmp_path: Path
) -> None:
    old, path = OLD / name / "journal.sqlite", tmp_path / "journal.sqlite"
    shutil.copy(old, path)
    before = path.read_bytes()
    reader = SqliteJournal(path, read_only=True)
    read = contents(reader, old)
    reader.close()
    assert path.read_bytes() == before
    journal = SqliteJournal(path)
    assert contents(journal, old) == read
    journal.close()
    assert len(read["replies"]) > 30  # type: ignore[arg-type]
    assert None not in read["replies"]  # type: ignore[operator]
    assert len(read["measurements"]) > 25  # type: ignore[arg-type]
    assert len(read["milestones"]) == (12 if name == "run-v2-steady-state" else 0)  # type: ignore[arg-type]
    SqliteJournal(tmp_path / "new.sqlite").close()
    assert {name: set(columns) for name, columns in layout(path).items()} == {
        name: set(columns) for name, columns in layout(tmp_path / "new.sqlite").items()
    }


@pytest.mark.parametrize("name", ["run-v1", "run-v2", "run-v2-steady-state", "new"])
def test_a_kill_at_any_statement_of_the_way_to_the_current_schema_loses_nothing(name: str, tmp_path: Path) -> None:
    """What lies on the disk when a statement begins is what a process that is killed there leaves behind."""
    old, path, left = OLD / name / "journal.sqlite", tmp_path / "journal.sqlite", list[Path]()
    if name != "new":
        shutil.copy(old, path)
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")

    def keep_copy(statement: str) -> None:
        copy = tmp_path / f"{len(left)}.sqlite"
        for ending in ("", "-wal"):
            if (part := path.with_name(path.name + ending)).exists():
                shutil.copy(part, copy.with_name(copy.name + ending))
        left.append(copy)

    database.set_trace_callback(keep_copy)
    create_tables(database)
    database.set_trace_callback(None)
    database.close()
    journal = SqliteJournal(path)
    expected = None if name == "new" else contents(journal, old)
    journal.close()
    assert len(left) > 8
    for copy in left:
        journal = SqliteJournal(copy)
        assert name == "new" or contents(journal, old) == expected
        journal.exchange([("b", 0, Completion("new", "stop", 3, 4, cached_tokens=2, seconds=1.5))], [])
        journal.close()
        assert {name: set(columns) for name, columns in layout(copy).items()} == {
            name: set(columns) for name, columns in layout(path).items()
        }


def test_an_interrupted_migration_is_taken_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(OLD / "run-v2" / "journal.sqlite", path)
    before = layout(path)

    with monkeypatch.context() as patched:
        patched.setattr(journal_schema, "_TABLES", [*journal_schema._TABLES, "CREATE TABLE"])
        with pytest.raises(FittestError, match="cannot be opened: incomplete input"):
            SqliteJournal(path)
    assert layout(path) == before
    SqliteJournal(path).close()
    assert "measurements" in layout(path)


def test_a_journal_that_was_killed_while_schema_2_was_made_is_made_whole(tmp_path: Path) -> None:
    """That code made one table after the other, and wrote the schema's number, without which nothing is kept, last."""
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE rewards (fingerprint TEXT, pair TEXT, reward REAL, missing TEXT)")
        database.execute(
            "CREATE TABLE turns (position INTEGER PRIMARY KEY, event TEXT NOT NULL, number INTEGER NOT NULL)"
        )
    journal = SqliteJournal(path)
    journal.record_measurements("head", {"p": 1.0})
    journal.record_milestone(0, Milestone("born", 0))
    assert journal.measurements("head", ["p"]) == {"p": 1.0}
    assert journal.milestones() == [Milestone("born", 0)]
    journal.close()
    assert not {"rewards", "turns"} & set(layout(path))


def test_a_journal_of_a_later_fittest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal(path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(FittestError, match="written by a later fittest"):
        SqliteJournal(path)


def filled(path: Path, replies: int = 3000) -> None:
    journal = SqliteJournal(path)
    journal.exchange([(f"key {i:06d}", 0, Completion("text " * 20, "stop", 1, 20)) for i in range(replies)], [])
    journal.close()


def test_a_damaged_journal_is_named_and_most_of_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(damaged)

    with pytest.raises(FittestError, match=r"journal is corrupted.*replies could be read and are in") as caught:
        SqliteJournal(path)

    assert "\n" not in str(caught.value)
    saved = sqlite3.connect(tmp_path / "journal.salvaged.sqlite")
    (count,) = saved.execute("SELECT count(*) FROM replies").fetchone()
    saved.close()
    assert 2000 < count < 3000
    (tmp_path / "journal.salvaged.sqlite").rename(path)
    with SqliteJournal(path) as journal:
        assert journal.reply("key 000000", 0) is not None


def salvaged_from_damage(path: Path) -> sqlite3.Connection:
    """What is saved of a journal with a page of rubbish in its middle."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(damaged)
    with pytest.raises(FittestError, match="journal is corrupted"):
        SqliteJournal(path)
    return sqlite3.connect(path.with_name("journal.salvaged.sqlite"))


def test_the_logs_are_saved_too_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    journal = SqliteJournal(path)
    for _ in range(3):
        journal.exchange([], [("same", request(1)), ("same", request(1))])
    for position in range(4):
        journal.record_milestone(position, Milestone("born", position))
    journal.event("stopped", "interrupted")
    journal.close()
    saved = salvaged_from_damage(path)
    assert saved.execute("SELECT count(*) FROM issued").fetchone() == (6,)
    assert saved.execute("SELECT count(*) FROM events WHERE event = 'stopped'").fetchone() == (1,)
    assert saved.execute("SELECT position, number FROM milestones").fetchall() == [(i, i) for i in range(4)]
    saved.close()


def test_an_order_of_events_is_saved_up_to_the_first_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    journal = SqliteJournal(path)
    for position in (0, 1, 3, 4):
        journal.record_milestone(position, Milestone("born", position))
    journal.event("stopped", "interrupted")
    journal.close()
    saved = salvaged_from_damage(path)
    assert saved.execute("SELECT position FROM milestones").fetchall() == [(0,), (1,)]
    saved.close()


def test_measurements_on_both_sides_of_the_damage_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path, replies=1)
    journal = SqliteJournal(path)
    journal.record_measurements("head", {f"{i:06d}": float(i) for i in range(20_000)})
    journal.close()
    saved = salvaged_from_damage(path)
    query = "SELECT count(*), min(subject), max(subject) FROM measurements WHERE value = CAST(subject AS REAL)"
    count, first, last = saved.execute(query).fetchone()
    saved.close()
    assert 18_000 < count < 20_000
    assert (first, last) == ("000000", "019999")


@pytest.mark.parametrize("name", ["run-v1", "run-v2-steady-state"])
def test_a_damaged_journal_of_an_earlier_schema_is_saved_in_the_current_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    shutil.copy(OLD / name / "journal.sqlite", path)
    with closing(sqlite3.connect(path)) as database, database:
        row = "INSERT INTO replies (key, sample, text, finish_reason, prompt_tokens, completion_tokens, session, at)"
        kept = [(f"key {i:06d}", 0, "text " * 20, "stop", 1, 20, 1, 0.5) for i in range(3000)]
        database.executemany(f"{row} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", kept)
    reader = SqliteJournal(path, read_only=True)
    before = contents(reader, OLD / name / "journal.sqlite")
    reader.close()
    salvaged_from_damage(path).close()
    saved = SqliteJournal(tmp_path / "journal.salvaged.sqlite")
    after = contents(saved, OLD / name / "journal.sqlite")
    saved.close()
    for what in ("measurements", "milestones", "fingerprint"):
        assert after[what] == before[what]
    assert 2000 < after["spent"].total.requests < before["spent"].total.requests  # type: ignore[attr-defined]


def test_a_journal_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(FittestError, match=r"journal\.sqlite: the journal is corrupted"):
        SqliteJournal(path)


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path, replies=50)
    journal = SqliteJournal(path)
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    too_much = [(f"new {i}", 0, Completion("text " * 500, "stop", 1, 1)) for i in range(1000)]
    with pytest.raises(FittestError, match=r"journal\.sqlite: database or disk is full"):
        journal.exchange(too_much, [])
    journal.close()
    with SqliteJournal(path) as journal:
        assert journal.reply("key 000000", 0) is not None


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_that_cannot_be_opened_is_closed(read_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all " * 100)
    # the caught error holds on to the frames that raised it, and with them to what they opened
    with pytest.raises(FittestError) as caught:
        SqliteJournal(path, read_only=read_only)
    assert caught.tb is not None
    assert path not in opened()


def opened() -> list[Path]:
    """The files that this process has open."""
    return [Path(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="cannot be opened"):
        SqliteJournal(tmp_path / "missing" / "journal.sqlite")


def test_idle_time_is_the_share_of_slots_without_a_request() -> None:
    # two slots; one request from 0 to 2, another from 1 to 2: busy 3 of 4 slot seconds
    changes = [(1, 0.0, 1), (1, 1.0, 1), (1, 2.0, -1), (1, 2.0, -1)]
    assert idle_fraction(changes, slots=2) == pytest.approx(0.25)


def test_more_requests_than_slots_are_no_more_than_full() -> None:
    changes = [(1, 0.0, 1), (1, 0.0, 1), (1, 0.0, 1), (1, 2.0, -1), (1, 2.0, -1), (1, 2.0, -1)]
    assert idle_fraction(changes, slots=2) == pytest.approx(0.0)


def test_a_killed_session_counts_to_its_last_reply_and_the_pause_does_not() -> None:
    killed = [(1, 0.0, 1), (1, 0.0, 1), (1, 1.0, -1)]
    resumed = [(2, 5.0, 1), (2, 6.0, -1)]
    assert idle_fraction([*killed, *resumed], slots=2) == pytest.approx(0.25)


def test_no_request_has_no_idle_fraction() -> None:
    assert idle_fraction([], slots=2) is None
