"""The unit in which m2 counts a response."""

from __future__ import annotations

from collections.abc import Callable

LengthUnit = Callable[[str], int]


def _words(text: str) -> int:
    return len(text.split())


LENGTH_UNITS: dict[str, LengthUnit] = {"chars": len, "words": _words}
