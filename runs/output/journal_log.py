"""Finds damage in the write-ahead log of a journal, which SQLite takes for the end of the log."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import BinaryIO

_HEADER, _FRAME = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)


def refuse_broken_log(journal: Path) -> None:
    """Raises an error if something that was committed stands behind a damaged page of the log.

    SQLite reads a log as far as its chain of checksums holds, and says nothing about the rest. A process that is
    killed leaves at most an unfinished page, behind which nothing stands. The format is that of
    https://www.sqlite.org/fileformat2.html#walformat.

    Args:
        journal: the journal, whose log need not be there.

    Raises:
        sqlite3.DatabaseError: the log is damaged.
    """
    log = journal.with_name(f"{journal.name}-wal")
    if not log.is_file() or log.stat().st_size <= _HEADER:
        return
    with log.open("rb") as file:
        header = file.read(_HEADER)
        magic, _, size = struct.unpack_from(">3I", header)
        if magic not in _MAGIC or _sums(header[:24], (0, 0), magic) != struct.unpack_from(">2I", header, 24):
            raise sqlite3.DatabaseError(f"the head of {log.name} is damaged")
        whole = _whole_frames(file, header, magic, size)
        if whole < _committed_frames(file, header, size):
            raise sqlite3.DatabaseError(f"{log.name} is damaged behind page {whole}")


def _whole_frames(file: BinaryIO, header: bytes, magic: int, size: int) -> int:
    """Returns how many frames stand in the chain of checksums, which each frame goes on with."""
    sums, count = struct.unpack_from(">2I", header, 24), 0
    file.seek(_HEADER)
    while len(frame := file.read(_FRAME + size)) == _FRAME + size and frame[8:16] == header[16:24]:
        sums = _sums(frame[_FRAME:], _sums(frame[:8], sums, magic), magic)
        if sums != struct.unpack_from(">2I", frame, 16):
            break
        count += 1
    return count


def _committed_frames(file: BinaryIO, header: bytes, size: int) -> int:
    """Returns how many frames stand in front of the last one that ends a transaction, if the damaged one counts."""
    count, last = 0, 0
    while True:
        file.seek(_HEADER + count * (_FRAME + size))
        frame = file.read(_FRAME)
        if len(frame) < _FRAME:
            return last
        # pages of an earlier round of the log have other salts
        if frame[8:16] == header[16:24] and frame[4:8] != b"\0\0\0\0":
            last = count
        count += 1


def _sums(content: bytes, sums: tuple[int, ...], magic: int) -> tuple[int, ...]:
    """Returns the checksum of a log, going on from that of what stands before."""
    first, second = sums
    words = struct.unpack(f"{'>' if magic & 1 else '<'}{len(content) // 4}I", content[: len(content) // 4 * 4])
    for place in range(0, len(words) - 1, 2):
        first = (first + words[place] + second) & 0xFFFFFFFF
        second = (second + words[place + 1] + first) & 0xFFFFFFFF
    return first, second
