"""The tables of a journal, and what brings a journal of an earlier schema up to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress

from fittest.runs.output.journal_rows import CHECKED, KEPT, META, Table, checksum, plausible, with_checksum

# Texts go to the end of `replies`, which therefore has rows of its own: kept in the order of random keys, every commit
# would rewrite as many pages as it has replies.
_TABLES = (
    """CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS issued (
    key TEXT NOT NULL, sample INTEGER NOT NULL, stage TEXT NOT NULL, session INTEGER NOT NULL, at REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, sample INTEGER NOT NULL, text TEXT, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, failure TEXT, session INTEGER NOT NULL, at REAL NOT NULL, cached_tokens INTEGER,
    seconds REAL, reasoning TEXT, stage TEXT, checksum INTEGER, PRIMARY KEY (key, sample))""",
    """CREATE TABLE IF NOT EXISTS measurements (
    fingerprint TEXT NOT NULL, subject TEXT NOT NULL, value REAL, missing TEXT, checksum INTEGER,
    PRIMARY KEY (fingerprint, subject)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS embeddings (
    fingerprint TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, checksum INTEGER,
    PRIMARY KEY (fingerprint, text)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS milestones (
    position INTEGER PRIMARY KEY, event TEXT NOT NULL, number INTEGER NOT NULL, checksum INTEGER)""",
    """CREATE TABLE IF NOT EXISTS events (
    session INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, detail TEXT)""",
    "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID",
)

_ROWS_AT_ONCE = 1000
"""Rows that get their checksum by one statement."""

UNRECORDED = "sealed before hashes"
"""A fact about a run whose sealed tables had no hash in the journal: they are taken as they are, and recorded then."""

SEALED = "sealed "
"""The name of the fact that holds the hash of a sealed table begins with it."""

_ADDED_TO_REPLIES = {"cached_tokens": "INTEGER", "seconds": "REAL", "reasoning": "TEXT", "stage": "TEXT"}


def _add_columns(database: sqlite3.Connection) -> None:
    """Replies tell how many tokens were cached and how long they took; the rows of before hold null there."""
    for column in _lacking(database):
        database.execute(f"ALTER TABLE replies ADD COLUMN {column} {_ADDED_TO_REPLIES[column]}")


def _from_2_to_3(database: sqlite3.Connection) -> None:
    """Rewards become measurements, which log-odds and losses are as well; "turn" means a turn of a chat alone."""
    _rename(database, "rewards", "measurements", {"pair": "subject", "reward": "value"})
    _rename(database, "turns", "milestones", {})


def _from_3_to_4(database: sqlite3.Connection) -> None:
    """Replies tell their reasoning, and their stage, by which what each engine did is told apart."""
    _add_columns(database)
    if columns_of(database, "replies") and columns_of(database, "issued"):
        stages_from_log(database)


def stages_from_log(database: sqlite3.Connection, where: str = "stage IS NULL") -> None:
    """Writes the stage of each reply that has none, as the log of requests tells it."""
    # without an index, each reply would read the whole log of requests
    database.execute("CREATE INDEX temporary_issued ON issued (key, sample)")
    database.execute(
        "UPDATE replies SET stage = (SELECT stage FROM issued"
        " WHERE issued.key = replies.key AND issued.sample = replies.sample LIMIT 1)"
        f" WHERE {where}"
    )
    database.execute("DROP INDEX temporary_issued")


def _from_4_to_5(database: sqlite3.Connection) -> None:
    """Rows get a checksum, and are counted; the tables that are sealed already have no hash on record.

    A table that has checksums keeps them: a damaged number of the schema would otherwise make every damage sound.
    """
    had_rows = bool(columns_of(database, "replies"))
    for statement in _TABLES:
        database.execute(statement)
    bare = [table for table in CHECKED if "checksum" not in columns_of(database, table.name)]
    for table in bare:
        database.execute(f"ALTER TABLE {table.name} ADD COLUMN checksum INTEGER")
        write_checksums(database, table)
    if had_rows and bare:
        mark_unrecorded(database)
    if bare or not had_rows:
        count_rows(database)


def write_checksums(database: sqlite3.Connection, table: Table) -> None:
    """Gives each row of a table that has no checksum its own, and deletes those that nothing of ours has written."""
    key = key_of(database, table)
    names, where = ", ".join((*key, *table.columns)), " AND ".join(f"{name} = ?" for name in key)
    beyond, last = "WHERE checksum IS NULL", ()
    while True:
        query = f"SELECT {names} FROM {table.name} {beyond} ORDER BY {', '.join(key)} LIMIT {_ROWS_AT_ONCE}"
        good, bad = [], []
        for row in database.execute(query, last):
            last, values = row[: len(key)], row[len(key) :]
            if plausible(table, values):
                good.append((checksum(values), *last))
            else:
                bad.append(last)
        if not good and not bad:
            return
        database.executemany(f"UPDATE {table.name} SET checksum = ? WHERE {where}", good)
        database.executemany(f"DELETE FROM {table.name} WHERE {where}", bad)
        beyond = f"WHERE checksum IS NULL AND ({', '.join(key)}) > ({', '.join('?' * len(key))})"


def key_of(database: sqlite3.Connection, table: Table) -> tuple[str, ...]:
    """Returns the columns in whose order the rows of a table lie."""
    # replies that schema 1 began lie in the order of their key
    with suppress(sqlite3.OperationalError):
        database.execute(f"SELECT rowid FROM {table.name} LIMIT 0")
        return ("rowid",)
    return table.columns[: 1 if table in (META, KEPT) else 2]


def mark_unrecorded(database: sqlite3.Connection) -> None:
    """Notes that no hash is known of the tables that the run has sealed."""
    row = with_checksum((UNRECORDED, "yes"))
    database.execute("INSERT OR REPLACE INTO meta (name, value, checksum) VALUES (?, ?, ?)", row)


def count_rows(database: sqlite3.Connection) -> None:
    """Writes down how many rows there are, so that those that are lost later are missed."""
    for table in CHECKED:
        (rows,) = database.execute(f"SELECT count(*) FROM {table.name} NOT INDEXED").fetchone()
        database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (table.name, rows))


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _add_columns, _from_2_to_3, _from_3_to_4, _from_4_to_5,
)  # fmt: skip
"""Each brings a journal from one schema to the next. A table that is not there yet is made by the last one.

Each looks at what is there already: the code of schema 2 could be killed between its statements.
"""

SCHEMA = 1 + len(_MIGRATIONS)


def create_tables(database: sqlite3.Connection) -> None:
    """Makes the tables of the current schema, or brings those of an earlier one up to it.

    All of it is one transaction: a process that is killed in between leaves the file as it was.
    """
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    if schema == SCHEMA:
        return
    with database:
        database.execute("BEGIN IMMEDIATE")
        for migrate in _MIGRATIONS[max(schema, 1) - 1 :]:
            migrate(database)
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def show_as_current(database: sqlite3.Connection) -> None:
    """Lets a journal that is only read look like one of the current schema, by views in memory."""
    lacking = _lacking(database)
    if lacking:
        # a table and not a join: the log has no index, and replies are looked up one by one
        database.execute("CREATE TEMP TABLE stages (key, sample, stage, PRIMARY KEY (key, sample)) WITHOUT ROWID")
        database.execute("INSERT OR IGNORE INTO stages SELECT key, sample, stage FROM issued")
        columns = "".join(f", NULL AS {column}" for column in lacking if column != "stage")
        source = "replies AS kept LEFT JOIN stages USING (key, sample)"
        _show(database, "replies", f"kept.*{columns}, stages.stage", source)
    if columns_of(database, "rewards"):
        _show(database, "measurements", "fingerprint, pair AS subject, reward AS value, missing", "rewards")
    if columns_of(database, "turns"):
        _show(database, "milestones", "*", "turns")
    elif not columns_of(database, "milestones"):
        _show(database, "milestones", "0 AS position, '' AS event, 0 AS number", "meta WHERE false")
    for table in CHECKED:
        if "checksum" not in columns_of(database, table.name):
            _show(database, table.name, "*", table.name)


def _show(database: sqlite3.Connection, name: str, columns: str, source: str) -> None:
    database.execute(f"CREATE TEMP VIEW {name} AS SELECT {columns}, NULL AS checksum FROM main.{source}")


def columns_of(database: sqlite3.Connection, table: str) -> list[str]:
    """Returns the names of a table's columns in their order; a table that is not there has none."""
    return [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]


def _lacking(database: sqlite3.Connection) -> list[str]:
    """Returns the columns that `replies` does not have yet."""
    there = columns_of(database, "replies")
    return [column for column in _ADDED_TO_REPLIES if there and column not in there]


def _rename(database: sqlite3.Connection, table: str, name: str, columns: Mapping[str, str]) -> None:
    """Renames a table and some of its columns, which leaves its rows where they are."""
    if not columns_of(database, table):
        return
    for before, after in columns.items():
        database.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")
    database.execute(f"ALTER TABLE {table} RENAME TO {name}")
