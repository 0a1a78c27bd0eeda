"""What can still be read of a corrupted journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

KEYS = {
    "meta": "name", "replies": "key", "rewards": "pair", "embeddings": "text", "issued": "rowid", "events": "rowid",
    "turns": "position",
}  # fmt: skip
"""The tables, with a column of their key for where rows have no number; logs have nothing else."""

CUT_AT_HOLE = """
DELETE FROM turns WHERE position >= (
    SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) - 1 AS place FROM turns)
    WHERE position = place)
"""
"""An order of events can be kept to up to the first that is missing."""


def salvaged(path: Path, error: sqlite3.DatabaseError) -> str:
    """Copy every readable row of a corrupted journal into a new one beside it.

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
    from fittest.runs.output.journal import create_tables

    copy.unlink(missing_ok=True)
    sound = sqlite3.connect(copy)
    create_tables(sound)
    broken = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for table, key in KEYS.items():
        _copy_table(broken, sound, table, key)
    sound.execute(CUT_AT_HOLE)
    sound.commit()
    (replies,) = sound.execute("SELECT count(*) FROM replies").fetchone()
    broken.close()
    sound.close()
    return int(replies)


def _copy_table(broken: sqlite3.Connection, sound: sqlite3.Connection, table: str, key: str) -> None:
    """Read from both ends towards the damage, since a scan ends at the first page that cannot be read."""
    key = "rowid" if _has_rowid(broken, table) else key
    for order in ("ASC", "DESC"):
        try:
            # the broken one may be of an earlier schema; what it lacks stays null
            names = [name for _, name, *_ in broken.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join(["rowid", *names] if key == "rowid" else names)
            for row in broken.execute(f"SELECT {columns} FROM {table} ORDER BY {key} {order}"):
                marks = ", ".join("?" * len(row))
                sound.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)
        except sqlite3.DatabaseError:
            continue


def _has_rowid(database: sqlite3.Connection, table: str) -> bool:
    """Whether rows lie in the order they were written; by their key they would be read from all over the file."""
    try:
        database.execute(f"SELECT rowid FROM {table} LIMIT 0")
    except sqlite3.DatabaseError:
        return False
    return True
