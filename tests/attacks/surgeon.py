"""A journal surgeon: damages the journal and the sealed tables of a run in many ways, each by a seed.

Every operation takes the folder of a run and a generator of random numbers. `FILES` work on bytes, as a broken disk
does; `QUERIES` work through SQLite, as a careless hand does, and close the write-ahead log.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

Operation = Callable[[Path, random.Random], None]

FILES: dict[str, Operation] = {}
"""Operations on the bytes of the journal, its log and the sealed tables, by name."""

QUERIES: dict[str, str] = {
    "a reply has another text": "UPDATE replies SET text = 'another' WHERE rowid = {row}",
    "many replies have another text": "UPDATE replies SET text = text || '!' WHERE rowid % 5 = 0",
    "a reply has another key": "UPDATE replies SET key = 'f' || substr(key, 2) WHERE rowid = {row}",
    "two replies are exchanged": "UPDATE replies SET text = (SELECT text FROM replies WHERE rowid = {row} + 1)"
    " WHERE rowid = {row}",
    "tokens are a text": "UPDATE replies SET prompt_tokens = 'many' WHERE rowid = {row}",
    "tokens are endless": "UPDATE replies SET completion_tokens = 4611686018427387904 WHERE rowid % 2",
    "tokens are negative": "UPDATE replies SET completion_tokens = -5 WHERE rowid = {row}",
    "a reply ended otherwise": "UPDATE replies SET finish_reason = 'tired' WHERE rowid = {row}",
    "a text is no UTF-8": "UPDATE replies SET text = CAST(x'fffe41' AS TEXT) WHERE rowid = {row}",
    "a key is no UTF-8": "UPDATE replies SET key = CAST(x'fffe41' AS TEXT) WHERE rowid = {row}",
    "a text is huge": "UPDATE replies SET text = CAST(zeroblob(70000000) AS TEXT) WHERE rowid = {row}",
    "a stage is unknown": "UPDATE replies SET stage = 'sleep' WHERE rowid = {row}",
    "a reply has become a failure": "UPDATE replies SET failure = 'lost', text = NULL WHERE rowid = {row}",
    "a time is a text": "UPDATE replies SET at = 'noon' WHERE rowid = {row}",
    "replies are lost": "DELETE FROM replies WHERE rowid BETWEEN {row} AND {row} + 3",
    "the last replies are lost": "DELETE FROM replies WHERE rowid > (SELECT max(rowid) - 5 FROM replies)",
    "all replies are lost": "DELETE FROM replies",
    "a checksum is gone": "UPDATE replies SET checksum = NULL WHERE rowid = {row}",
    "a measurement is another": "UPDATE measurements SET value = value + 1 WHERE rowid_of = {row}",
    "a measurement is a text": "UPDATE measurements SET value = 'good' WHERE rowid_of = {row}",
    "measurements are lost": "DELETE FROM measurements WHERE rowid_of BETWEEN {row} AND {row} + 9",
    "a vector is short": "UPDATE embeddings SET vector = x'0000803f' WHERE rowid_of = {row}",
    "a vector is no number of floats": "UPDATE embeddings SET vector = x'00' WHERE rowid_of = {row}",
    "embeddings are lost": "DELETE FROM embeddings WHERE rowid_of < {row}",
    "milestones are lost": "DELETE FROM milestones WHERE position BETWEEN 9 AND 11",
    "the last milestones are lost": "DELETE FROM milestones WHERE position > 12",
    "a milestone is another": "UPDATE milestones SET number = number + 1 WHERE position = 7",
    "a milestone is unknown": "UPDATE milestones SET event = 'slept' WHERE position = 7",
    "the form of proposals is another": "UPDATE meta SET value = 'chat' WHERE name = 'proposal_form'",
    "the form of proposals is lost": "DELETE FROM meta WHERE name = 'proposal_form'",
    "all facts are lost": "DELETE FROM meta",
    "a hash is another": "UPDATE meta SET value = '00' WHERE name LIKE 'sealed gen%'",
    "the log has a text for a time": "UPDATE issued SET at = 'noon', stage = 'sleep' WHERE rowid = {row}",
    "the log of requests is lost": "DELETE FROM issued",
    "the log of events is lost": "DELETE FROM events",
    "an event has no time": "UPDATE events SET at = 'noon'",
    "counts are other": "UPDATE kept SET rows = 'many'",
    "counts are lost": "DELETE FROM kept",
    "there are no counts": "DROP TABLE kept",
    "there are no replies": "DROP TABLE replies",
    "there are no measurements": "DROP TABLE measurements",
    "there are no milestones": "DROP TABLE milestones",
    "there are no facts": "DROP TABLE meta",
    "there is no log of requests": "DROP TABLE issued",
    "a column is missing": "ALTER TABLE replies DROP COLUMN text",
    "no row has a checksum": "ALTER TABLE replies DROP COLUMN checksum",
    "the schema is 0": "PRAGMA user_version = 0",
    "the schema is 3": "PRAGMA user_version = 3",
    "the schema is 4": "PRAGMA user_version = 4",
    "the schema is a later one": "PRAGMA user_version = 99",
    "the schema is negative": "PRAGMA user_version = -7",
}
"""Statements; `{row}` stands for the number of a row, and `rowid_of` for the place of a row in a table without any."""


def operation(made: Operation) -> Operation:
    """Registers an operation on bytes under its name."""
    FILES[made.__name__.replace("_", " ")] = made
    return made


def by_query(folder: Path, name: str, chance: random.Random) -> None:
    """Runs one of the statements."""
    statement = QUERIES[name].format(row=chance.randrange(2, 30))
    if "rowid_of" in statement:
        table = "measurements" if "measurements" in statement else "embeddings"
        key = "subject" if table == "measurements" else "text"
        place = f"(SELECT count(*) FROM {table} AS before WHERE before.{key} < {table}.{key})"
        statement = statement.replace("rowid_of", place)
    with closing(sqlite3.connect(folder / "journal.sqlite")) as database, database:
        database.execute(statement)


def by_transplant(folder: Path, name: str, other: Path) -> None:
    """Puts the journal, its log, or both of another run in the place of a run's own."""
    if name in (JOURNAL_OF_ANOTHER, BOTH_OF_ANOTHER):
        shutil.copy(journal_of(other), journal_of(folder))
    if name in (LOG_OF_ANOTHER, BOTH_OF_ANOTHER) and log_of(other).exists():
        shutil.copy(log_of(other), log_of(folder))
    if name == JOURNAL_OF_ANOTHER:
        log_of(folder).unlink(missing_ok=True)


JOURNAL_OF_ANOTHER = "the journal is that of another run"
LOG_OF_ANOTHER = "the log is that of another run"
BOTH_OF_ANOTHER = "journal and log are those of another run"
TRANSPLANTS = (JOURNAL_OF_ANOTHER, LOG_OF_ANOTHER, BOTH_OF_ANOTHER)


def journal_of(folder: Path) -> Path:
    return folder / "journal.sqlite"


def log_of(folder: Path) -> Path:
    return folder / "journal.sqlite-wal"


def page_size(content: bytes | bytearray) -> int:
    """The size that the header tells, or that of our journals."""
    size = int.from_bytes(content[16:18], "big")
    return size if size >= 512 else 65536 if size == 1 else 4096


def change(path: Path, chance: random.Random, what: Callable[[bytearray, list[int], int], None]) -> None:
    """Changes a file by its pages; `what` gets its content, where pages begin, and their size."""
    content = bytearray(path.read_bytes())
    size = page_size(journal_of(path.parent).read_bytes())
    first, step = (32 + 24, size + 24) if path.name.endswith("-wal") else (0, size)
    starts = list(range(first, len(content) - size + 1, step))
    if starts:
        chance.shuffle(starts)
        what(content, starts, size)
        path.write_bytes(content)


def either_file(folder: Path, chance: random.Random) -> Path:
    """The journal, or its log if there is one with pages."""
    log = log_of(folder)
    return log if log.exists() and log.stat().st_size > 4096 and chance.random() < 0.5 else journal_of(folder)


@operation
def a_page_is_zero(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        content[starts[0] : starts[0] + size] = bytes(size)

    change(either_file(folder, chance), chance, what)


@operation
def some_pages_are_zero(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        for start in starts[:5]:
            content[start : start + size] = bytes(size)

    change(either_file(folder, chance), chance, what)


@operation
def a_page_is_random(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        content[starts[0] : starts[0] + size] = chance.randbytes(size)

    change(either_file(folder, chance), chance, what)


@operation
def half_a_page_is_zero(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        content[starts[0] + size // 2 : starts[0] + size] = bytes(size // 2)

    change(either_file(folder, chance), chance, what)


@operation
def a_page_stands_twice(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        one, other = starts[0], starts[-1]
        content[other : other + size] = content[one : one + size]

    change(either_file(folder, chance), chance, what)


@operation
def two_pages_are_exchanged(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        one, other = starts[0], starts[-1]
        kept = content[one : one + size]
        content[one : one + size] = content[other : other + size]
        content[other : other + size] = kept

    change(either_file(folder, chance), chance, what)


@operation
def pages_of_indexes_are_changed(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        leaves = [start for start in starts if content[start] in (0x02, 0x0A)][:2]
        for start in leaves:
            for place in chance.sample(range(start + size // 2, start + size), 6):
                content[place] ^= 1 << chance.randrange(8)

    change(either_file(folder, chance), chance, what)


@operation
def bits_of_rows_are_flipped(folder: Path, chance: random.Random) -> None:
    def what(content: bytearray, starts: list[int], size: int) -> None:
        leaves = [start for start in starts if content[start] == 0x0D][:3]
        for start in leaves:
            content[chance.randrange(start + size // 2, start + size)] ^= 1 << chance.randrange(8)

    change(either_file(folder, chance), chance, what)


@operation
def bits_are_flipped(folder: Path, chance: random.Random) -> None:
    path = either_file(folder, chance)
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@operation
def a_bit_of_the_header_is_flipped(folder: Path, chance: random.Random) -> None:
    path = either_file(folder, chance)
    content = bytearray(path.read_bytes())
    content[chance.randrange(32 if path.name.endswith("-wal") else 100)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@operation
def the_free_list_is_wrong(folder: Path, chance: random.Random) -> None:
    path = journal_of(folder)
    content = bytearray(path.read_bytes())
    struct.pack_into(">2I", content, 32, chance.randrange(2, 9), chance.randrange(1, 9))
    path.write_bytes(content)


@operation
def the_end_is_cut_off(folder: Path, chance: random.Random) -> None:
    path = journal_of(folder)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * chance.choice((0.1, 0.5, 0.9, 0.99)))])


@operation
def the_first_page_is_lost(folder: Path, chance: random.Random) -> None:
    path = journal_of(folder)
    content = bytearray(path.read_bytes())
    size = page_size(content)
    content[:size] = bytes(size)
    path.write_bytes(content)


@operation
def the_file_is_empty(folder: Path, chance: random.Random) -> None:
    journal_of(folder).write_bytes(b"")
    log_of(folder).unlink(missing_ok=True)


@operation
def the_file_is_something_else(folder: Path, chance: random.Random) -> None:
    journal_of(folder).write_bytes(b"Dear diary,\n" * 1000)


@operation
def the_file_is_gone(folder: Path, chance: random.Random) -> None:
    journal_of(folder).unlink()
    log_of(folder).unlink(missing_ok=True)


@operation
def the_log_is_gone(folder: Path, chance: random.Random) -> None:
    log_of(folder).unlink(missing_ok=True)


@operation
def the_index_of_the_log_is_random(folder: Path, chance: random.Random) -> None:
    (folder / "journal.sqlite-shm").write_bytes(chance.randbytes(32768))


@operation
def a_generation_is_damaged(folder: Path, chance: random.Random) -> None:
    _flip(chance.choice(sorted((folder / "generations").glob("*.parquet"))), chance)


@operation
def a_generation_is_gone(folder: Path, chance: random.Random) -> None:
    chance.choice(sorted((folder / "generations").glob("*.parquet"))).unlink()


@operation
def responses_are_damaged(folder: Path, chance: random.Random) -> None:
    _flip(chance.choice(sorted((folder / "responses").glob("*.parquet"))), chance)


@operation
def survivors_are_damaged(folder: Path, chance: random.Random) -> None:
    _flip(folder / "survivors.parquet", chance)


@operation
def the_logbook_is_cut_off(folder: Path, chance: random.Random) -> None:
    path = folder / "logbook.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
