"""Compares the tables that a run has sealed with their hashes, which the journal keeps, before they are trusted."""

from __future__ import annotations

import hashlib
import shlex
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.runs.output.journal_rows import EVENTS, META, sound
from fittest.runs.output.journal_schema import SEALED, UNRECORDED, columns_of

if TYPE_CHECKING:
    from fittest.runs.output.journal import SqliteJournal

_TABLES = (
    "generations/[0-9]*.parquet", "responses/[0-9]*.parquet", "responses/retest.parquet",
    "survivors.parquet", "logbook.parquet",
)  # fmt: skip


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_changed(path: Path) -> None:
    """Raises an error if a table of a run is not as the run wrote it.

    A journal without any hash is that of a filter or of an early run, and says nothing of the tables beside it.

    Args:
        path: the table, in the folder of a run or in a folder of that one.

    Raises:
        FittestError: the table is damaged, or its journal is.
    """
    folder = next((parent for parent in path.absolute().parents[:2] if (parent / "journal.sqlite").is_file()), None)
    if folder is None:
        return
    # before the journal is read: a run that is at work records a hash first, and replaces the table then
    digest = digest_of(path) if path.is_file() else None
    journal = folder / "journal.sqlite"
    try:
        recorded = _recorded(journal)
    except sqlite3.DatabaseError as error:
        raise FittestError(
            f"{journal}: the journal is corrupted ({error}), so nothing shows whether the tables beside it are as they"
            f" were written; save what can be read: fittest run {shlex.quote(str(folder))} --resume"
        ) from None
    if recorded and digest is not None and digest not in recorded.get(_name(folder, path.absolute()), ()):
        raise FittestError(
            f"{path}: is not as the run wrote it, since the journal has another hash; have it made anew:"
            f" fittest run {shlex.quote(str(folder))} --resume"
        )


def changed_tables(folder: Path) -> list[Path]:
    """Returns the tables of a run that are not as it wrote them, or not there; the journal can make them anew.

    Tables of responses that are not there were deleted for their size.

    Args:
        folder: the folder of the run.

    Raises:
        FittestError: a sealed generation is not one that the journal knows of, and the journal is not known to be
            damaged; it is another run's, or its end is lost.
    """
    journal, there = folder / "journal.sqlite", tables_in(folder)
    try:
        recorded = _recorded(journal) if journal.is_file() else {}
        damaged = journal.is_file() and _was_damaged(journal)
    except sqlite3.DatabaseError:
        # nothing shows that they are sound; the journal says what is wrong with it when it is opened
        return there
    if recorded is None or not there:
        return []
    unknown = [path for path in there if _name(folder, path) not in recorded]
    if unknown and not damaged:
        raise FittestError(
            f"{folder}: {journal.name} knows nothing of {_name(folder, unknown[0])}, which is sealed; it is that of"
            " another run, or its end is lost. Put the right one back, with its -wal file if there is one; or move"
            " generations and responses away, which asks again for all that is lost"
        )
    known = [folder / name for name in recorded if not name.startswith("responses/")]
    gone = [path for path in known if not path.is_file()]
    changed = [path for path in there if digest_of(path) not in recorded.get(_name(folder, path), ())]
    return sorted({*gone, *changed})


def adopt_tables(journal: SqliteJournal, folder: Path) -> None:
    """Records the hashes of the tables as they are, if the journal began before hashes were kept, or was salvaged."""
    if journal.meta(UNRECORDED) is None:
        return
    for path in tables_in(folder):
        journal.record_sealed(_name(folder, path), digest_of(path))
    journal.forget_meta(UNRECORDED)


def tables_in(folder: Path) -> list[Path]:
    """Returns the paths of all sealed tables in the folder of a run."""
    return [path for pattern in _TABLES for path in sorted(folder.glob(pattern))]


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _recorded(journal: Path) -> Mapping[str, tuple[str, ...]] | None:
    """Returns the hashes of each table by its name; None if the journal began before hashes were kept.

    The journal is not looked through, which would take longer than to read the tables. A fact that is damaged gives no
    hash, so that its table does not pass.
    """
    with closing(_read_only(journal)) as database:
        columns = columns_of(database, META.name)
        if columns and "checksum" not in columns:
            return None
        rows = database.execute(f"SELECT name, value, checksum FROM {META.name}") if columns else []
        facts = {str(row[0]): row for row in rows}
    if UNRECORDED in facts:
        return None
    return {
        name.removeprefix(SEALED): tuple(str(row[1]).split()) if sound(META, row) else ()
        for name, row in facts.items()
        if name.startswith(SEALED)
    }


def _was_damaged(journal: Path) -> bool:
    with closing(_read_only(journal)) as database:
        if not columns_of(database, EVENTS.name):
            return False
        return database.execute("SELECT 1 FROM events WHERE event = 'damaged'").fetchone() is not None


def _read_only(journal: Path) -> sqlite3.Connection:
    address = journal.absolute().as_uri()
    database = sqlite3.connect(f"{address}?mode=ro", uri=True)
    database.text_factory = lambda text: text.decode(errors="surrogateescape")
    try:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # a folder that cannot be written has no place for the log; without a log there is nothing in it either
        database.close()
        database = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
