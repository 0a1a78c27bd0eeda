"""Prints, which only this module does: what others wrote reaches the screen without keys, and orders nothing.

A line goes through `say` or `tell`, which keep it one line. Whatever else a library prints, such as a warning or a
traceback, meets the streams of `visible_streams`.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from fittest.evo.hiding import without_keys
from fittest.evo.visible import visible

if TYPE_CHECKING:
    from types import TracebackType


_MOVES = re.compile(r"\r|(\x1b\[A)+$")
"""What tqdm redraws its bars with: a text that begins with the return to the line's start, or is a step up alone."""


def say(*lines: object, err: bool = False) -> None:
    """Prints lines, each of which stays one line whatever it holds.

    Args:
        *lines: what to print; without any, an empty line.
        err: whether to print on standard error.
    """
    click.echo("\n".join(visible(without_keys(str(line))) for line in lines), err=err)


def tell(line: str) -> None:
    """Prints a line of progress on standard error."""
    # the program that reads the progress, such as `head`, may end before the run does; the run must go on
    with suppress(OSError):
        sys.stderr.write(f"{visible(without_keys(line))}\n")
        sys.stderr.flush()


@contextmanager
def visible_streams() -> Iterator[None]:
    """Puts a stream before standard output and standard error that writes out all orders but line breaks."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _VisibleStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback as Python does, with all orders but line breaks written out; for `sys.excepthook`."""
    with visible_streams():
        # the hook of Python 3.13 and later colours it, and its colours would be written out too
        traceback.print_exception(kind, error, trace)


class _VisibleStream:
    """Writes out what a terminal would obey, before a text reaches the stream behind it.

    rich draws with orders of its own. It finds the stream behind by `rich_proxied_file`, so what is given to rich has
    to go through `visible` first.

    Args:
        stream: the stream behind.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text; what moves the cursor stays only where bars of progress have it."""
        moves = found.group() if (found := _MOVES.match(text)) else ""
        lines = without_keys(text[len(moves) :]).split("\n")
        shown = "\n".join("\t".join(map(visible, line.split("\t"))) for line in lines)
        encoding = self._stream.encoding or "utf-8"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(moves + shown)
        return len(text)

    @property
    def rich_proxied_file(self) -> TextIO:
        """Returns the innermost stream."""
        found = self._stream
        while hasattr(found, "rich_proxied_file"):
            found = found.rich_proxied_file
        return found

    def writelines(self, lines: list[str]) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        # bytes would pass unseen
        if name in {"buffer", "_stream"}:
            raise AttributeError(name)
        return getattr(self._stream, name)
