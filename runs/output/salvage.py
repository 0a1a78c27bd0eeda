"""Saves what can still be read of a corrupted journal."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from fittest.runs.output.atomic import make_private
from fittest.runs.output.journal_schema import columns_of, create_tables

_CUT_AT_HOLE = """
DELETE FROM milestones WHERE position >= (
    SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) - 1 AS place FROM milestones)
    WHERE position = place)
"""
"""The order of milestones can be kept up to the first that is lost."""


def salvaged(path: Path, error: sqlite3.DatabaseError) -> str:
    """Copies every readable row of a corrupted journal into a new one beside it.

    Args:
        path: the corrupted journal.
        error: what SQLite says about it.

    Returns:
        The sentence that tells the user what is broken, what was saved, and how to go on.
    """
    copy = path.with_name(f"{path.stem}.salvaged.sqlite")
    replies = _copy_rows(path, copy)
    if not replies:
        copy.unlink(missing_ok=True)
        return (
            f"{path}: the journal is corrupted ({error}) and no reply in it can be read; start anew in another folder"
        )
    return (
        f"{path}: the journal is corrupted ({error}); {replies} replies could be read and are in {copy.name}."
        f" To go on with them: mv {copy} {path}, remove {path.name}-wal and {path.name}-shm, and resume"
    )


def _copy_rows(path: Path, copy: Path) -> int:
    """Copies the tables in their own schema, brings the copy up to the current one, and counts its replies."""
    copy.unlink(missing_ok=True)
    make_private(copy)
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as broken,
        closing(sqlite3.connect(copy)) as sound,
    ):
        for table in _copy_layout(broken, sound):
            _copy_table(broken, sound, table)
        sound.commit()
        create_tables(sound)
        sound.execute(_CUT_AT_HOLE)
        sound.commit()
        (replies,) = sound.execute("SELECT count(*) FROM replies").fetchone()
    return int(replies)


def _copy_layout(broken: sqlite3.Connection, sound: sqlite3.Connection) -> list[str]:
    """Makes the same tables, still empty, notes their schema, and returns their names."""
    tables: list[str] = []
    with suppress(sqlite3.DatabaseError):
        (schema,) = broken.execute("PRAGMA user_version").fetchone()
        sound.execute(f"PRAGMA user_version = {schema}")
        listed = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        for name, sql in broken.execute(listed):
            sound.execute(sql)
            tables.append(name)
    return tables


def _copy_table(broken: sqlite3.Connection, sound: sqlite3.Connection, table: str) -> None:
    """Reads from both ends towards the damage, since a scan ends at the first page that cannot be read."""
    names = columns_of(broken, table)
    if _has_rowid(broken, table):
        names = ["rowid", *names]
    # The order in which the rows lie: any other would be sorted first, and a sort reads all of them.
    columns, key = ", ".join(names), names[0]
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            for row in broken.execute(f"SELECT {columns} FROM {table} ORDER BY {key} {order}"):
                marks = ", ".join("?" * len(row))
                sound.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)


def _has_rowid(database: sqlite3.Connection, table: str) -> bool:
    """Returns whether rows lie in the order they were written, and not in that of their key."""
    try:
        database.execute(f"SELECT rowid FROM {table} LIMIT 0")
    except sqlite3.DatabaseError:
        return False
    return True
