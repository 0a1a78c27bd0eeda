"""Reads every row of a run's journal and every sealed table, and says what is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fittest.evo.errors import FittestError
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.journal_log import refuse_broken_log
from fittest.runs.output.sealed import changed_tables, tables_in


class DeepCheck(NamedTuple):
    """Holds what was read, and what is damaged, in lines; nothing is damaged if there are none of the latter."""

    read: Sequence[str]
    damaged: Sequence[str]


def deep_check(folder: Path) -> DeepCheck:
    """Checks a run as it lies on the disk, and changes nothing.

    Args:
        folder: the folder of the run, on which no process should be at work.

    Raises:
        FittestError: there is no journal, or its pages do not hold together.
    """
    path = folder / "journal.sqlite"
    if not path.is_file():
        raise FittestError(f"{path}: no journal here")
    try:
        refuse_broken_log(path)
        with SqliteJournal(path, read_only=True) as journal:
            found = list(journal.inspect())
            indexed = journal.is_indexed()
    except sqlite3.DatabaseError as error:
        raise FittestError(f"{path}: the journal is corrupted ({error})") from None
    read = [f"{one.table.name}: {one.rows} rows" for one in found]
    damaged = [f"{path.name}: {line}" for one in found if (line := one.damage) is not None]
    if not indexed:
        damaged.append(f"{path.name}: the index of the replies is damaged; it is made anew when the run is resumed")
    try:
        changed = [f"{path.relative_to(folder)}: is not as the run wrote it" for path in changed_tables(folder)]
    except FittestError as error:
        changed = [str(error)]
    read.append(f"sealed tables: {len(tables_in(folder))} compared with their hashes")
    return DeepCheck(read, [*damaged, *changed])
