"""Opens JSON, CSV and plain text as tables of rows; nothing is read further than the limits of a file allow."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.reading.files import lines_of, open_text, shown
from fittest.runs.reading.limits import MOST_COLUMNS, file_limits
from fittest.runs.sources.table import Row, Table

_ROWS_SEARCHED_FOR_COLUMNS = 1_000
_CHARACTERS_AT_ONCE = 1 << 20

_Rows = Callable[[Path, TextIO], Iterator[tuple[int, Row]]]


def open_json_lines(path: Path) -> Table:
    """Opens a file of one JSON object per line, or of one JSON array of objects, which many tools write instead."""
    if _opens_an_array(path):
        return _text_table(path, "row", _array_items)
    return _text_table(path, "line", _json_lines)


def _opens_an_array(path: Path) -> bool:
    with open_text(path) as file:
        while piece := file.read(_CHARACTERS_AT_ONCE):
            if begun := piece.lstrip():
                return begun[0] == "["
    return False


def _json_lines(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines_of(path, file), 1):
        if line.strip():
            try:
                item = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                raise FittestError(f"{shown(path)}: line {number} is not JSON ({_reason(error)})") from error
            yield number, _json_object(item, f"{shown(path)}: line {number}")


def _array_items(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    for number, item in enumerate(_Array(path, file).items(), 1):
        yield number, _json_object(item, f"{shown(path)}: row {number}")


class _Array:
    """Reads a JSON array piece by piece, and holds no more of it than one item and a piece of the file."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._most = file_limits().cell
        self._held = ""
        self._place = 0
        self._ended = False

    def items(self) -> Iterator[object]:
        """Yields the items.

        Raises:
            FittestError: the file is no JSON array.
        """
        self._take("[")
        number = 0
        while number or self._sign() != "]":
            number += 1
            yield self._item(number)
            if self._sign() != ",":
                break
            self._take(",")
        self._take("]")
        if self._sign():
            raise self._wrong("the array ends before the file does")

    def _sign(self) -> str:
        """Returns the next character that is no blank; "" at the end of the file."""
        while True:
            while self._place < len(self._held):
                if self._held[self._place] not in " \t\n\r":
                    return self._held[self._place]
                self._place += 1
            if self._ended:
                return ""
            self._read(_CHARACTERS_AT_ONCE)

    def _take(self, wanted: str) -> None:
        found = self._sign()
        if found != wanted:
            raise self._wrong(f"expected {wanted!r}, found {found!r}" if found else f"it ends before {wanted!r}")
        self._place += 1

    def _item(self, number: int) -> object:
        self._sign()
        while True:
            try:
                item, self._place = _DECODER.raw_decode(self._held, self._place)
            except (ValueError, RecursionError) as error:
                # an item that goes on in the next piece looks like a wrong one
                if self._ended or len(self._held) > self._most or isinstance(error, RecursionError):
                    raise self._wrong(f"row {number}: {_reason(error)}") from error
                # as much again, so that a long item is not read from its beginning too often
                self._read(max(len(self._held), _CHARACTERS_AT_ONCE))
            else:
                return item

    def _read(self, wanted: int) -> None:
        piece = self._file.read(wanted)
        self._held, self._place = self._held[self._place :] + piece, 0
        self._ended = not piece

    def _wrong(self, reason: str) -> FittestError:
        return FittestError(f"{shown(self._path)}: not a JSON array ({visible(reason)})")


def _json_object(item: object, where: str) -> Row:
    if not isinstance(item, dict):
        raise FittestError(f'{where} holds a {type(item).__name__}; it should be an object, as {{"prompt": "…"}}')
    return item


def _without_twins(pairs: list[tuple[str, object]]) -> Row:
    """Returns an object whose keys are all different; of two equal keys Python would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {visible(twice)[:40]!r} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_twins)


def open_separated(path: Path, delimiter: str) -> Table:
    """Opens a file of values with a header, separated by commas or tabs."""

    def rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
        limits = file_limits()
        # the csv module's own limit, 131,072 characters, is shorter than some prompts
        csv.field_size_limit(limits.cell)
        records = csv.reader(lines_of(path, file), delimiter=delimiter, strict=True)
        try:
            header = next(records, [])
            _check_header(path, header)
            for number, record in enumerate(filter(None, records), 1):
                if len(record) != len(header):
                    raise FittestError(
                        f"{shown(path)}: row {number} has {len(record)} fields, the header has {len(header)}; "
                        f"a field that holds the separator, a quote or a line break must be in double quotes"
                    )
                yield number, dict(zip(header, record, strict=True))
        except csv.Error as error:
            raise FittestError(f"{shown(path)}: line {records.line_num} is not well-formed ({error})") from error

    return _text_table(path, "row", rows)


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) > MOST_COLUMNS:
        raise FittestError(f"{shown(path)}: has {len(header):,} columns, and the limit of columns is {MOST_COLUMNS:,}")
    names = [name for name in header if name]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FittestError(f"{shown(path)}: has two columns {visible(twice)!r}; rename or drop one")


def open_plain_text(path: Path) -> Table:
    """Opens a text with one prompt per line."""

    def rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
        for number, line in enumerate(lines_of(path, file), 1):
            if line.strip():
                yield number, {"prompt": line.removesuffix("\n").removesuffix("\r")}

    return _text_table(path, "line", rows)


def _text_table(path: Path, unit: str, parse: _Rows) -> Table:
    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        with open_text(path) as file:
            for number, row in parse(path, file):
                yield number, {name: value for name, value in row.items() if name in wanted}

    def every_row() -> Iterator[Row]:
        with open_text(path) as file:
            yield from (row for _, row in parse(path, file))

    return Table(path.name, _columns_of(path, every_row()), unit, rows)


def _columns_of(path: Path, rows: Iterable[Row]) -> tuple[str, ...]:
    """Returns all columns that occur in the first thousand rows, in order of appearance."""
    found: dict[str, None] = {}
    for row in islice(rows, _ROWS_SEARCHED_FOR_COLUMNS):
        found.update(dict.fromkeys(row))
        if len(found) > MOST_COLUMNS:
            raise FittestError(f"{shown(path)}: has more than {MOST_COLUMNS:,} columns, the limit of columns")
    return tuple(found)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "its brackets are nested too deep"
    return visible(str(error).strip().partition("\n")[0][:200]) or type(error).__name__
