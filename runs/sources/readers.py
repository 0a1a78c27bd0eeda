"""Opens files and data sets as tables of rows, with one reader per format; other modules interpret the rows."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from fittest.evo.errors import FittestError
from fittest.runs.output.together import settle
from fittest.runs.sources.table import Row, Table

_ROWS_SEARCHED_FOR_COLUMNS = 1_000
_ROWS_AT_ONCE = 10_000  # a pool of millions of rows must not be in memory as Python objects all at once
_LARGEST_CSV_FIELD = 2**31 - 1  # the csv module's own limit, 131,072 characters, is shorter than some prompts


def open_table(location: str) -> Table:
    """Opens a table by its location.

    Args:
        location: a file, a folder written by `save_to_disk`, or `hf:owner/name[:split]`.

    Raises:
        FittestError: the table is missing or unreadable, or its format is not known.
    """
    if location.startswith("hf:"):
        from fittest.runs.sources.hub import open_hub

        return open_hub(location.removeprefix("hf:"))
    path = Path(location).expanduser()
    if path.is_dir():
        from fittest.runs.sources.hub import open_saved

        return open_saved(path)
    # files of ours may still lie where a killed command left them
    settle(path.parent)
    if not path.exists():
        raise FittestError(f"{path}: no such file")
    return _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], Table]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[-2:-1] if zipped else suffixes[-1:])
    if kind not in _READERS or (zipped and kind in _BINARY):
        known = ", ".join(_READERS)
        raise FittestError(f"{path}: cannot tell the format from the name; it should end in {known} (text also .gz)")
    return _READERS[kind]


def _open_parquet(path: Path) -> Table:
    import polars as pl

    try:
        # without glob=False, a * or [ in the file's name would be a pattern
        scan = pl.scan_parquet(path, glob=False)
        columns = tuple(scan.collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FittestError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error

    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        selected = scan.select([name for name in columns if name in wanted])
        start = 0
        while True:
            try:
                frame = selected.slice(start, _ROWS_AT_ONCE).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise FittestError(f"{path}: damaged after row {start} ({_first_line(error)})") from error
            yield from enumerate(frame.iter_rows(named=True), start + 1)
            start += frame.height
            if frame.height < _ROWS_AT_ONCE:
                return

    return Table(path.name, columns, "row", rows)


def _open_json_lines(path: Path) -> Table:
    if _opens_an_array(path):
        return _text_table(path, "row", _array_items)
    return _text_table(path, "line", _json_lines)


def _opens_an_array(path: Path) -> bool:
    # many tools write one JSON array where one object per line is expected
    with _open_text(path) as file:
        return next((line.lstrip()[0] for line in file if line.strip()), "") == "["


def _json_lines(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FittestError(f"{path}: line {number} is not JSON ({_first_line(error)})") from error
            yield number, _json_object(item, f"{path}: line {number}")


def _array_items(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    try:
        items = json.load(file)
    except (ValueError, RecursionError) as error:
        raise FittestError(f"{path}: not a JSON array ({_first_line(error)})") from error
    for number, item in enumerate(items, 1):
        yield number, _json_object(item, f"{path}: row {number}")


def _json_object(item: object, where: str) -> Row:
    if not isinstance(item, dict):
        raise FittestError(f'{where} holds a {type(item).__name__}; it should be an object, as {{"prompt": "…"}}')
    return item


def _open_separated(path: Path, delimiter: str) -> Table:
    def rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
        csv.field_size_limit(_LARGEST_CSV_FIELD)
        records = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(records, [])
            for number, record in enumerate(filter(None, records), 1):
                if len(record) != len(header):
                    raise FittestError(
                        f"{path}: row {number} has {len(record)} fields, the header has {len(header)}; "
                        f"a field that holds the separator, a quote or a line break must be in double quotes"
                    )
                yield number, dict(zip(header, record, strict=True))
        except csv.Error as error:
            raise FittestError(f"{path}: line {records.line_num} is not well-formed ({error})") from error

    return _text_table(path, "row", rows)


def _open_plain_text(path: Path) -> Table:
    def rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, {"prompt": line.removesuffix("\n").removesuffix("\r")}

    return _text_table(path, "line", rows)


def _text_table(path: Path, unit: str, parse: Callable[[Path, TextIO], Iterator[tuple[int, Row]]]) -> Table:
    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        with _open_text(path) as file:
            for number, row in parse(path, file):
                yield number, {name: value for name, value in row.items() if name in wanted}

    def every_row() -> Iterator[Row]:
        with _open_text(path) as file:
            yield from (row for _, row in parse(path, file))

    return Table(path.name, _columns_of(every_row()), unit, rows)


def _columns_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Returns all columns that occur in the first thousand rows, in order of appearance."""
    return tuple(dict.fromkeys(name for row in islice(rows, _ROWS_SEARCHED_FOR_COLUMNS) for name in row))


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """Opens UTF-8 text, gzipped or not, without its byte order mark.

    Bytes that are not UTF-8 become lone surrogates, so that a later step can recognise and count them. Line ends are
    left as they are: a lone carriage return inside a prompt is part of it.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as raw:
            if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise FittestError(f"{path}: is UTF-16 text; it should be UTF-8")
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise FittestError(f"{path}: cannot be read ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _open_parquet,
    ".jsonl": _open_json_lines,
    ".ndjson": _open_json_lines,
    ".json": _open_json_lines,
    ".csv": lambda path: _open_separated(path, ","),
    ".tsv": lambda path: _open_separated(path, "\t"),
    ".txt": _open_plain_text,
}
_BINARY = {".parquet"}
