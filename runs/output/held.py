"""Knows the files that a process holds open, and finds out when their paths no longer lead to them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fittest.evo.errors import FittestError

_SECONDS_BETWEEN_LOOKS = 0.1
"""A look costs some microseconds for each file, and a fast engine gives thousands of replies a second."""


class FolderLostError(FittestError):
    """Reports that a folder was deleted, moved or replaced while a command worked in it: nothing more is written."""


class Held:
    """Remembers files by device and inode, which stay the same whatever happens to their paths.

    A file that is deleted, moved or replaced can still be written by whoever has it open, and what is written is lost.
    """

    def __init__(self) -> None:
        self._files: dict[Path, tuple[int, int]] = {}
        self._due = 0.0

    def keep(self, path: Path) -> None:
        """Adds a file, which must exist."""
        self._files[path] = _identity(path.stat())

    def drop(self, path: Path) -> None:
        """Forgets a file that was closed, if it was added."""
        self._files.pop(path, None)

    def look(self) -> None:
        """Does what `check` does, if the last look was a moment ago.

        Raises:
            FolderLostError: as `check` does.
        """
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _SECONDS_BETWEEN_LOOKS
            self.check()

    def check(self) -> None:
        """Compares each path with the file that it led to.

        Raises:
            FolderLostError: a path leads to no file or to another one.
        """
        for path, identity in self._files.items():
            try:
                now = _identity(path.stat())
            except OSError:
                now = None
            if now != identity:
                what = "was deleted or moved" if now is None else "was replaced"
                raise FolderLostError(
                    f"{path}: {what} while this command was at work; it has stopped and writes nothing more there. If"
                    " the folder was moved, go on with it in its new place"
                )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
