"""Opens files and data sets as tables of rows, with one reader per format; other modules interpret the rows."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.output.together import settle
from fittest.runs.reading.files import check_path, check_regular, shown
from fittest.runs.reading.limits import MOST_COLUMNS, file_limits
from fittest.runs.reading.parquet import check_parquet
from fittest.runs.sources.table import Row, Table
from fittest.runs.sources.text_tables import open_json_lines, open_plain_text, open_separated

_ROWS_AT_ONCE = 10_000  # a pool of millions of rows must not be in memory as Python objects all at once


def open_table(location: str) -> Table:
    """Opens a table by its location.

    Args:
        location: a file, a folder written by `save_to_disk`, or `hf:owner/name[:split]`.

    Raises:
        FittestError: the table is missing or unreadable, its format is not known, or it holds more than the limits.
    """
    if location.startswith("hf:"):
        from fittest.runs.sources.hub import open_hub

        return _checked(location, open_hub(location.removeprefix("hf:")))
    path = expanded(location)
    found = check_path(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        from fittest.runs.sources.hub import open_saved

        return _checked(shown(path), open_saved(path))
    # files of ours may still lie where a killed command left them
    settle(path.parent)
    check_regular(path)
    table = _reader(path)(path)
    return _checked(shown(path), replace(table, rows=lambda wanted: _within_limits(shown(path), table.rows(wanted))))


def expanded(location: str) -> Path:
    """Returns a path without a ~ in front.

    Args:
        location: a path that a user gave.

    Raises:
        FittestError: the ~ is of a user who does not exist, or who has no home.
    """
    try:
        return Path(location).expanduser()
    except RuntimeError as error:
        raise FittestError(f"{shown(location)}: {error}") from None


def format_of(path: Path) -> str:
    """Returns the suffix that tells the format of a file, in lower case; it is that of the name that was given.

    A file of a download cache is a link, under its own name, to one that is named otherwise.

    Args:
        path: the file; `.gz` at its end is not counted.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _reader(path: Path) -> Callable[[Path], Table]:
    kind = format_of(path)
    if kind not in _READERS or (kind in _BINARY and path.suffix.lower() == ".gz"):
        known = ", ".join(_READERS)
        raise FittestError(
            f"{shown(path)}: cannot tell the format from the name; it should end in {known} (text also .gz)"
        )
    return _READERS[kind]


def _open_parquet(path: Path) -> Table:
    import polars as pl

    columns = check_parquet(path)

    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        check_parquet(path, wanted)
        # without glob=False, a * or [ in the file's name would be a pattern
        selected = pl.scan_parquet(path, glob=False).select([name for name in columns if name in wanted])
        start = 0
        while True:
            frame = selected.slice(start, _ROWS_AT_ONCE).collect()
            yield from enumerate(frame.iter_rows(named=True), start + 1)
            start += frame.height
            if frame.height < _ROWS_AT_ONCE:
                return

    return Table(path.name, columns, "row", rows)


def _checked(where: str, table: Table) -> Table:
    """Returns a table whose columns are not too many, and whose wanted ones cannot be mistaken for others.

    How large it is, is limited for files alone. A data set of a hub is mapped into memory, and read row by row; some
    that are in use have ten times as much text as a file may hold.
    """
    if len(table.columns) > MOST_COLUMNS:
        raise FittestError(
            f"{where}: has {len(table.columns):,} columns, and the limit of columns is {MOST_COLUMNS:,}"
        )

    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        refuse_twins(where, table.columns, wanted)
        yield from table.rows(wanted)

    return replace(table, rows=rows)


def _within_limits(where: str, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    limits = file_limits()
    content = 0
    for count, (number, row) in enumerate(rows, 1):
        content += sum(map(_memory, row.values()))
        if count > limits.rows or content > limits.content:
            most = f"{limits.rows:,} rows, the limit of rows" if count > limits.rows else (
                f"{limits.mib} MiB of text, the limit of a file"
            )  # fmt: skip
            raise FittestError(f"{where}: holds more than {most}; {limits.remedy}")
        yield number, row


def refuse_twins(where: str, columns: Collection[str], wanted: Collection[str]) -> None:
    """Refuses a wanted column if another one has the same name but for case: nobody knows which one is meant.

    Args:
        where: names the table in messages.
        columns: the columns that it has.
        wanted: those that are read.

    Raises:
        FittestError: there is such a column.
    """
    folded = {name.casefold(): name for name in wanted if name in columns}
    for name in columns:
        twin = folded.get(name.casefold(), name)
        if twin != name and name not in wanted:
            raise FittestError(
                f"{where}: has the columns {visible(twin)!r} and {visible(name)!r}, which differ in case alone;"
                " rename or drop one"
            )


def _memory(cell: object) -> int:
    """Returns the bytes that the texts of a cell take: one letter outside Latin makes one up to four times as large.

    The keys of an object are not counted: a conversation repeats them in each turn, and nobody keeps them.
    """
    if isinstance(cell, str):
        return sys.getsizeof(cell)
    if isinstance(cell, (list, tuple)):
        return sum(map(_memory, cell))
    if isinstance(cell, Mapping):
        return sum(map(_memory, cell.values()))
    return 0


_READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _open_parquet,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".json": open_json_lines,
    ".csv": lambda path: open_separated(path, ","),
    ".tsv": lambda path: open_separated(path, "\t"),
    ".txt": open_plain_text,
}
_BINARY = {".parquet"}
