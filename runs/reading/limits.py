"""Limits of what is read of a file, with the names by which messages call them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from fittest.evo.errors import FittestError

MOST_MIB = "FITTEST_MAX_FILE_MIB"
"""The environment variable that sets the limits of a file."""

_DEFAULT_MIB = 512

MOST_COLUMNS = 10_000
"""How many columns a table may have."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How much a file may hold; all follows from one number, so that a user has one to change.

    Args:
        mib: the text of a file in MiB, uncompressed.
    """

    mib: int = _DEFAULT_MIB

    @property
    def content(self) -> int:
        """Returns how many bytes of text a file may hold, uncompressed."""
        return self.mib << 20

    @property
    def rows(self) -> int:
        """Returns how many rows a file may have: 4,194,304 unless the user says otherwise."""
        return self.content // 128

    @property
    def cell(self) -> int:
        """Returns how long a line, a row or a cell may be: 16 MiB unless the user says otherwise."""
        return self.content // 32

    @property
    def cell_mib(self) -> str:
        """Returns the same for messages."""
        return f"{self.cell / 2**20:g} MiB"

    @property
    def remedy(self) -> str:
        """Returns what a user can do about a file that is larger."""
        return f"the limit is raised by the environment variable {MOST_MIB}, now {self.mib}"


def file_limits() -> FileLimits:
    """Returns the limits of this process.

    Raises:
        FittestError: the environment variable holds no number of MiB.
    """
    given = os.environ.get(MOST_MIB, "").strip()
    if not given:
        return FileLimits()
    # more than a TiB is a mistake, and int() refuses numbers of thousands of digits
    if not re.fullmatch(r"[1-9]\d{0,6}", given, re.ASCII) or int(given) > 2**20:
        raise FittestError(f"{MOST_MIB} is {given[:20]!r}; it should be a number of MiB from 1 to 1048576")
    return FileLimits(int(given))
