"""Saves what can still be read of a corrupted journal."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

from fittest.runs.output.atomic import make_private
from fittest.runs.output.journal_damage import CUT_AT_HOLE
from fittest.runs.output.journal_pages import Row, rows_in
from fittest.runs.output.journal_rows import CHECKED, EVENTS, ISSUED, KEPT, REPLIES, Table
from fittest.runs.output.journal_schema import (
    count_rows,
    create_tables,
    mark_unrecorded,
    stages_from_log,
    write_checksums,
)


def salvaged(path: Path, error: sqlite3.DatabaseError) -> str:
    """Copies every sound row of a corrupted journal into a new one beside it.

    Args:
        path: the corrupted journal.
        error: what SQLite says about it.

    Returns:
        The sentence that tells the user what is broken, what was saved, and how to go on.
    """
    copy = path.with_name(f"{path.stem}.salvaged.sqlite")
    try:
        replies, said = _copy_rows(path, copy, why=f"it was corrupted ({error})")
    except (sqlite3.Error, OSError) as failure:
        return f"{path}: the journal is corrupted ({error}), and what can be read of it cannot be saved: {failure}"
    if not replies:
        copy.unlink(missing_ok=True)
        return (
            f"{path}: the journal is corrupted ({error}) and no reply in it can be read; start anew in another folder"
        )
    logs = " ".join(shlex.quote(f"{path}{ending}") for ending in ("-wal", "-shm"))
    return (
        f"{path}: the journal is corrupted ({error}); {said} replies could be read and are in"
        f" {copy.name}; what is lost is asked for again. To go on with them:"
        f" rm -f {logs} && mv {shlex.quote(str(copy))} {shlex.quote(str(path))}, and resume"
    )


def _copy_rows(path: Path, copy: Path, *, why: str) -> tuple[int, str]:
    """Writes the sound rows to a journal of the current schema; returns the number of replies, in words as well."""
    copy.unlink(missing_ok=True)
    make_private(copy)
    kept = 0
    with closing(sqlite3.connect(copy)) as saved:
        create_tables(saved)
        for table, rows in groupby(rows_in(path), key=lambda row: row.table):
            if table is KEPT:
                kept = max([kept, *(int(str(row.values[1])) for row in rows if row.values[0] == REPLIES.name)])
            else:
                _insert(saved, table, rows)
        stages_from_log(saved, "checksum IS NULL")
        for table in CHECKED:
            write_checksums(saved, table)
        saved.execute(CUT_AT_HOLE)
        count_rows(saved)
        mark_unrecorded(saved)
        (replies,) = saved.execute("SELECT count(*) FROM replies").fetchone()
        (session,) = saved.execute("SELECT coalesce(max(session), 0) FROM events").fetchone()
        said = f"{replies} of {kept}" if kept > replies else str(replies)
        line = f"{why}; {said} replies were saved, and what was lost is asked for again"
        saved.execute("INSERT INTO events VALUES (?, 0, 'damaged', ?)", (session, line))
        saved.commit()
    return int(replies), said


def _insert(saved: sqlite3.Connection, table: Table, rows: Iterator[Row]) -> None:
    """Inserts rows, of which the first of each key stands."""
    columns = (*table.columns, *(("checksum",) if table.checked else ()))
    if table in (ISSUED, EVENTS):
        # the log has no key, and a row may be found more than once
        columns = ("rowid", *columns)
        made = ((row.rowid, *row.values) for row in rows)
    else:
        made = (row.values for row in rows)
    saved.executemany(
        f"INSERT OR IGNORE INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", made
    )
