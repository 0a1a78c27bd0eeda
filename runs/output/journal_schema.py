"""The tables of a journal, and what brings a journal of an earlier schema up to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

# Texts go to the end of `replies`, which therefore has rows of its own: kept in the order of random keys, every commit
# would rewrite as many pages as it has replies.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS issued (
    key TEXT NOT NULL, sample INTEGER NOT NULL, stage TEXT NOT NULL, session INTEGER NOT NULL, at REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, sample INTEGER NOT NULL, text TEXT, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, failure TEXT, session INTEGER NOT NULL, at REAL NOT NULL, cached_tokens INTEGER,
    seconds REAL, reasoning TEXT, stage TEXT, PRIMARY KEY (key, sample))""",
    """CREATE TABLE IF NOT EXISTS measurements (
    fingerprint TEXT NOT NULL, subject TEXT NOT NULL, value REAL, missing TEXT,
    PRIMARY KEY (fingerprint, subject)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS embeddings (
    fingerprint TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (fingerprint, text)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS milestones (
    position INTEGER PRIMARY KEY, event TEXT NOT NULL, number INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS events (
    session INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, detail TEXT)""",
)

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
    if not columns_of(database, "replies") or not columns_of(database, "issued"):
        return
    # without an index, each reply would read the whole log of requests
    database.execute("CREATE INDEX temporary_issued ON issued (key, sample)")
    database.execute(
        "UPDATE replies SET stage = (SELECT stage FROM issued"
        " WHERE issued.key = replies.key AND issued.sample = replies.sample LIMIT 1)"
    )
    database.execute("DROP INDEX temporary_issued")


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_add_columns, _from_2_to_3, _from_3_to_4)
"""Each brings a journal from one schema to the next. A table that is not there yet is left to `_TABLES`.

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
        for statement in _TABLES:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def show_as_current(database: sqlite3.Connection) -> None:
    """Lets a journal that is only read look like one of the current schema, by views in memory."""
    if lacking := _lacking(database):
        # a table and not a join: the log has no index, and replies are looked up one by one
        database.execute("CREATE TEMP TABLE stages (key, sample, stage, PRIMARY KEY (key, sample)) WITHOUT ROWID")
        database.execute("INSERT OR IGNORE INTO stages SELECT key, sample, stage FROM issued")
        columns = ", ".join(f"NULL AS {column}" for column in lacking if column != "stage")
        database.execute(
            f"CREATE TEMP VIEW replies AS SELECT kept.*, {columns}, stages.stage"
            " FROM main.replies AS kept LEFT JOIN stages USING (key, sample)"
        )
    if columns_of(database, "rewards"):
        database.execute(
            "CREATE TEMP VIEW measurements AS"
            " SELECT fingerprint, pair AS subject, reward AS value, missing FROM main.rewards"
        )
    if columns_of(database, "turns"):
        database.execute("CREATE TEMP VIEW milestones AS SELECT position, event, number FROM main.turns")
    elif not columns_of(database, "milestones"):
        database.execute("CREATE TEMP VIEW milestones AS SELECT 0 AS position, '' AS event, 0 AS number WHERE false")


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
