"""Opens files of others: regular ones alone, since a device or a pipe may never end, or never begin."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.reading.limits import FileLimits, file_limits

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def shown(path: Path | str) -> str:
    """Returns a path for messages: on one line, and not longer than a reader needs."""
    text = visible(str(path))
    return text if len(text) <= 300 else f"{text[:150]}…{text[-100:]}"


def check_path(path: Path | str) -> os.stat_result | None:
    """Returns what the system knows about a path; None if nothing is there.

    Args:
        path: a path that a user gave.

    Raises:
        FittestError: the path cannot be used: it holds NUL, is too long, or leads through a folder that is closed.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - Path.stat() behaves alike, but a string need not become a path first
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FittestError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise FittestError(f"{shown(path)}: is no path, since it holds a character that no path can hold") from None


def check_regular(path: Path) -> int:
    """Returns the size of a file in bytes.

    Args:
        path: the file.

    Raises:
        FittestError: nothing is there, or it is no regular file.
    """
    found = check_path(path)
    if found is None:
        raise FittestError(f"{shown(path)}: no such file")
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
        raise FittestError(f"{shown(path)}: is {kind}; it should be a file")
    return found.st_size


def read_bytes(path: Path, *, most: int) -> bytes:
    """Returns the content of a small file.

    Args:
        path: the file.
        most: how many bytes it may hold.

    Raises:
        FittestError: the file is missing or no regular one, it cannot be read, or it is larger.
    """
    size = check_regular(path)
    if size > most:
        raise FittestError(f"{shown(path)}: is larger than {most / 2**20:g} MiB, which no such file is")
    try:
        return path.read_bytes()
    except OSError as error:
        raise FittestError(f"{shown(path)}: cannot be read: {error.strerror}") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens UTF-8 text, gzipped or not, without its byte order mark.

    Bytes that are not UTF-8 become lone surrogates, so that a later step can recognise and count them. Line ends are
    left as they are: a lone carriage return inside a prompt is part of it.

    Args:
        path: the file.

    Raises:
        FittestError: it is missing or no regular file, cannot be read, is UTF-16, or holds more than the limit.
    """
    check_regular(path)
    limits = file_limits()
    try:
        with _opened(path) as raw:
            if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise FittestError(f"{shown(path)}: is UTF-16 text; it should be UTF-8")
        with _opened(path) as raw, io.BufferedReader(_Counted(raw, path, limits), 2**16) as counted:
            yield io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FittestError(f"{shown(path)}: cannot be read ({reason})") from error


def lines_of(path: Path, file: TextIO) -> Iterator[str]:
    """Yields the lines of a text.

    Args:
        path: the file, for the message.
        file: the text.

    Raises:
        FittestError: a line is longer than the limit.
    """
    limits = file_limits()
    number = 0
    # the iterator of the file itself would read a line of any length
    while line := file.readline(limits.cell + 1):
        number += 1
        if len(line) > limits.cell:
            raise FittestError(
                f"{shown(path)}: line {number} is longer than {limits.cell_mib}, the limit of a line; {limits.remedy}"
            )
        yield line


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")


class _Counted(io.RawIOBase):
    """Reads from a file until it has given more than the limit: a small gzip file may hold any number of bytes."""

    def __init__(self, raw: BinaryIO, path: Path, limits: FileLimits) -> None:
        super().__init__()
        self._raw = raw
        self._path = path
        self._limits = limits
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        self._given += found
        if self._given > self._limits.content:
            raise FittestError(
                f"{shown(self._path)}: holds more than {self._limits.mib} MiB of text, the limit of a file;"
                f" {self._limits.remedy}"
            )
        return int(found)
