"""Reads the rows of a journal page by page, without the trees that hold them together, for what SQLite cannot read.

The formats of pages, cells, records and of the write-ahead log are those of https://www.sqlite.org/fileformat2.html.
A row is taken only if it is sound, so a page that is damaged, stale or of another file does no harm.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fittest.runs.output.journal_rows import MILESTONES, MOST_BYTES, REPLIES, TABLES, Table, sound

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_REAL = {"at", "seconds", "value"}
"""SQLite keeps a whole number in a column of reals as an integer."""

_FEWEST_COLUMNS_OF_REPLIES = 9
"""Schema 1 had so many; each later one added its own at the end."""

_LATEST_UNCHECKED = 4
"""The latest schema whose rows have no checksum."""

_Value = int | float | str | bytes | None


class Row(NamedTuple):
    """Holds a row that was found: its table, its number if it has one, and its values with their checksum."""

    table: Table
    rowid: int
    values: tuple[_Value, ...]


def rows_in(journal: Path) -> Iterator[Row]:
    """Yields every sound row in a journal and in its write-ahead log, the newest first; some come more than once.

    Args:
        journal: the file, which may be truncated or damaged.
    """
    with journal.open("rb") as file:
        header = file.read(100)
        size = page_size(header)
        version = int.from_bytes(header[60:64], "big") if header.startswith(b"SQLite format 3\0") else 0
        log = journal.with_name(f"{journal.name}-wal")
        with (log if log.is_file() else journal).open("rb") as frames:
            pages = _Pages(
                file, frames if log.is_file() else None, size, reserved=header[20] if len(header) > 20 else 0
            )
            for page, start in pages.all():
                yield from _rows_on(pages, page, start, unchecked=version <= _LATEST_UNCHECKED)


def page_size(header: bytes) -> int:
    """Returns the size of pages that a header tells; 4096, as of our own journals, if it tells none."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else 4096


class _Pages:
    """Finds the pages of a file and of its log; of a page that both hold, that of the log is the newer one."""

    def __init__(self, file: BinaryIO, log: BinaryIO | None, size: int, *, reserved: int) -> None:
        self._file = file
        self._log = log
        self._size = size
        # our own journals reserve nothing
        self.usable = size - reserved if reserved <= size - 480 else size
        self._in_log: dict[int, int] = {}
        if log is not None:
            for number, offset in _frames(log, size):
                self._in_log[number] = offset

    def all(self) -> Iterator[tuple[bytes, int]]:
        """Yields each page, and where its own header begins."""
        for number, offset in reversed(self._in_log.items()):
            yield self._read(self._log, offset), 100 if number == 1 else 0
        offset = 0
        while page := self._read(self._file, offset):
            yield page, 100 if offset == 0 else 0
            offset += self._size

    def page(self, number: int) -> bytes:
        """Returns a page by its number, which counts from 1; nothing of one that is not there."""
        if number in self._in_log:
            return self._read(self._log, self._in_log[number])
        return self._read(self._file, (number - 1) * self._size) if number > 0 else b""

    def _read(self, file: BinaryIO | None, offset: int) -> bytes:
        if file is None:
            return b""
        file.seek(offset)
        return file.read(self._size)


def _frames(log: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Yields the number of the page in each frame of a log, and where the page stands, oldest first."""
    header = log.read(32)
    salts, offset = header[16:24], 32
    while len(frame := _at(log, offset, 24)) == 24:
        # frames of an earlier round, which the file holds already, have other salts
        if frame[8:16] == salts:
            yield int.from_bytes(frame[:4], "big"), offset + 24
        offset += 24 + size


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _rows_on(pages: _Pages, page: bytes, start: int, *, unchecked: bool) -> Iterator[Row]:
    """Yields the sound rows on a page."""
    kind = page[start] if len(page) > start else 0
    if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
        return
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    first = start + (12 if kind == _INDEX_INTERIOR else 8)
    for place in range(first, min(first + 2 * cells, len(page) - 1), 2):
        try:
            rowid, values = _cell(pages, page, int.from_bytes(page[place : place + 2], "big"), kind)
        except (IndexError, struct.error):
            continue
        for table in TABLES:
            row = _as_row(table, rowid, values, of_table=kind == _TABLE_LEAF)
            if row is not None and sound(table, row, unchecked=unchecked):
                yield Row(table, rowid, row)
                break


def _cell(pages: _Pages, page: bytes, place: int, kind: int) -> tuple[int, list[_Value]]:
    """Returns the number and the values of the record in a cell."""
    if kind == _INDEX_INTERIOR:
        place += 4
    length, place = _varint(page, place)
    rowid = 0
    if kind == _TABLE_LEAF:
        rowid, place = _varint(page, place)
    return rowid, _record(_payload(pages, page, place, length, kind))


def _payload(pages: _Pages, page: bytes, place: int, length: int, kind: int) -> bytes:
    """Returns the record that begins in a cell, and goes on in overflow pages if it is long."""
    if length > MOST_BYTES:
        raise IndexError
    most = pages.usable - 35 if kind == _TABLE_LEAF else (pages.usable - 12) * 64 // 255 - 23
    if length <= most:
        return page[place : place + length]
    least = (pages.usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (pages.usable - 4)
    local = local if local <= most else least
    parts, left = [page[place : place + local]], length - local
    following = int.from_bytes(page[place + local : place + local + 4], "big")
    while left > 0:
        content = pages.page(following)[: pages.usable]
        if len(content) <= 4:
            raise IndexError
        parts.append(content[4 : 4 + left])
        left -= len(parts[-1])
        following = int.from_bytes(content[:4], "big")
    return b"".join(parts)


def _record(payload: bytes) -> list[_Value]:
    """Returns the values of a record."""
    end, place = _varint(payload, 0)
    body, values = end, list[_Value]()
    while place < end:
        kind, place = _varint(payload, place)
        value, length = _value(payload, body, kind)
        values.append(value)
        body += length
    if body != len(payload):
        raise IndexError
    return values


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _value(payload: bytes, place: int, kind: int) -> tuple[_Value, int]:
    """Returns a value by its serial type, and how many bytes it takes."""
    if kind in (0, 8, 9):
        return (None if kind == 0 else kind - 8), 0
    if kind in _INTEGERS:
        length = _INTEGERS[kind]
        return int.from_bytes(payload[place : place + length], "big", signed=True), length
    if kind == 7:
        return struct.unpack_from(">d", payload, place)[0], 8
    if kind < 12:
        raise IndexError
    length = (kind - 12) // 2
    content = payload[place : place + length]
    return content.decode(errors="surrogateescape") if kind % 2 else content, length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Returns a number of variable length, and where it ends."""
    number = 0
    for byte in range(8):
        digit = content[place + byte]
        number = number << 7 | digit & 0x7F
        if digit < 0x80:
            return number, place + byte + 1
    return number << 8 | content[place + 8], place + 9


def _as_row(table: Table, rowid: int, values: Sequence[_Value], *, of_table: bool) -> tuple[_Value, ...] | None:
    """Returns values as a row of a table with its checksum, if there can be such a row."""
    fewest, most = len(table.columns), len(table.columns) + table.checked
    if table is REPLIES:
        # schema 1 kept them in the order of their key
        fewest, of_table = _FEWEST_COLUMNS_OF_REPLIES, True
    if of_table != table.has_rowid or not fewest <= len(values) <= most:
        return None
    row = list(values) + [None] * (most - len(values))
    if table is MILESTONES:
        # the number of a row is its position, which the record leaves out
        row[0] = rowid if row[0] is None else -1
    for place, name in enumerate(table.columns):
        if name in _REAL and isinstance(row[place], int):
            row[place] = float(row[place])  # type: ignore[arg-type]
    return tuple(row)
