"""Finds what is damaged in a journal that can be opened, and takes it out, so that it is asked for again."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from fittest.evo.visible import visible
from fittest.runs.output.journal_rows import CHECKED, KEPT, META, MILESTONES, REPLIES, TABLES, Table, plausible, sound
from fittest.runs.output.journal_schema import columns_of, count_rows, key_of

_OF_AN_INDEX = re.compile(r"missing from index|wrong # of entries in index|non-unique entry in index")
_OF_A_VALUE = re.compile(r"^(NULL|TEXT|NUMERIC|NUL|non-\S+) value in ")

_NAMED = 3
"""Most damaged rows that are named."""

CUT_AT_HOLE = """
DELETE FROM milestones WHERE position >= (
    SELECT count(*) FROM (SELECT position, row_number() OVER (ORDER BY position) - 1 AS place FROM milestones)
    WHERE position = place)
"""
"""The order of milestones can be kept up to the first that is lost."""


class Found(NamedTuple):
    """Tells what was found of one table.

    Attributes:
        table: the table.
        rows: how many rows of it can be read.
        bad: where those of them lie that are not as they were written.
        names: what some of them are called.
        lost: how many rows are not there any more.
    """

    table: Table
    rows: int
    bad: Sequence[tuple[object, ...]]
    names: Sequence[str]
    lost: int

    @property
    def damage(self) -> str | None:
        """Returns the line that tells a user what is damaged; None if nothing is."""
        count = len(self.bad) + self.lost
        if not count:
            return None
        what, then = self.table.told
        named = f" ({', '.join(self.names)}{', …' if len(self.bad) > len(self.names) else ''})" if self.names else ""
        return f"{count} of {self.rows + self.lost} {what} are damaged or lost{named}; they are {then}"


def refuse_broken(database: sqlite3.Connection) -> bool:
    """Looks at every page, and at whether each row is in the index of its table.

    Args:
        database: the journal.

    Returns:
        Whether an index has to be made anew; it holds nothing of its own.

    Raises:
        sqlite3.DatabaseError: pages do not hold together, or a table or a column is missing.
    """
    lines = [line for (text,) in database.execute("PRAGMA integrity_check") for line in str(text).splitlines()]
    # what a row holds is looked at by its checksum
    lines = [line for line in lines if line != "ok" and not _OF_A_VALUE.search(line)]
    if broken := [line for line in lines if not _OF_AN_INDEX.search(line)]:
        raise sqlite3.DatabaseError(broken[-1])
    return bool(lines)


def refuse_other_layout(database: sqlite3.Connection) -> None:
    """Raises an error if a table or a column of the current schema is missing."""
    for table in TABLES:
        wanted = (*table.columns, "checksum") if table.checked else table.columns
        there = columns_of(database, table.name)
        if missing := [name for name in wanted if name not in there]:
            raise sqlite3.DatabaseError(
                f"table {table.name} lacks {', '.join(missing)}" if there else f"there is no table {table.name}"
            )


def mend(database: sqlite3.Connection, *, reindex: bool) -> list[str]:
    """Deletes every row that is not as it was written, and returns a line for each kind of damage.

    Args:
        database: the journal, of the current schema.
        reindex: whether the index of the replies has to be made anew.

    Raises:
        sqlite3.DatabaseError: it cannot be mended where it stands.
    """
    found = [look_at(database, table) for table in TABLES]
    for one in found:
        # with a damaged index, SQLite does not find the entries of a row that is deleted
        if one.bad and one.table is REPLIES and reindex:
            raise sqlite3.DatabaseError("replies and their index are damaged")
        _delete(database, one)
    if reindex:
        database.execute("REINDEX replies")
    lines = [line for one in found if (line := one.damage) is not None]
    if cut := database.execute(CUT_AT_HOLE).rowcount:
        lines.append(f"{cut} milestones that came after a lost one are decided anew")
    if lines or cut:
        count_rows(database)
    return lines


def _delete(database: sqlite3.Connection, found: Found) -> None:
    where = " AND ".join(f"{name} = ?" for name in key_of(database, found.table))
    try:
        deleted = database.executemany(f"DELETE FROM {found.table.name} WHERE {where}", found.bad).rowcount
    except UnicodeEncodeError:
        deleted = 0
    if found.bad and deleted != len(found.bad):
        raise sqlite3.DatabaseError(f"rows of {found.table.name} have damaged keys")


def look_at(database: sqlite3.Connection, table: Table, *, unchecked: bool = False) -> Found:
    """Reads all rows of a table, and finds those that are not as they were written.

    Args:
        database: the journal.
        table: the table.
        unchecked: whether the journal is of a schema without checksums.
    """
    key = () if unchecked else key_of(database, table)
    columns = (*key, *table.columns, *(("checksum",) if table.checked else ()))
    rows, bad, names = 0, list[tuple[object, ...]](), list[str]()
    for row in database.execute(f"SELECT {', '.join(columns)} FROM {table.name}"):
        rows += 1
        values = row[len(key) :]
        if not sound(table, values, unchecked=unchecked):
            bad.append(row[: len(key)])
            if table.checked and len(names) < _NAMED:
                names.append(_name(table, values))
    lost = 0 if table is not KEPT else len(CHECKED) - rows
    if table in CHECKED and not unchecked:
        kept = database.execute("SELECT name, rows FROM kept WHERE name = ?", (table.name,)).fetchone()
        lost = max(0, kept[1] - rows) if kept is not None and plausible(KEPT, kept) else 0
    return Found(table, rows, bad, names, lost)


def _name(table: Table, values: Sequence[object]) -> str:
    """Returns what a row is called, as far as that can be read."""
    name = visible(str(values[0]))[:24]
    return name if table in (META, MILESTONES) else f"{name}/{visible(str(values[1]))[:24]}"
