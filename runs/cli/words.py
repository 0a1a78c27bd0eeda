"""Puts numbers before nouns."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, which gets an s unless there is exactly one.

    Args:
        number: how many there are.
        noun: what they are, in the singular.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
