"""Makes inputs that nobody would write: mutated bytes, and structures and texts that follow from bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

_SIGNS = (
    "\x00", "\t", "\n", "\r", "\x1b[2J", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffd", "\ud83d\ude00", "é", "İ", "ß",
    " ", '"', "'", "\\", "|", "<", ">", "[", "]", "{", "}", "`", "#", ",", ":", "0", "9", "-", "a", "Z", "日本", "نص",
)  # fmt: skip
_TEXTS = tuple(sign.encode("utf-16", "surrogatepass").decode("utf-16") for sign in _SIGNS)
_NUMBERS = (
    0, -1, 1, 2, 7, 255, 2**31, 2**53, 2**62, 2**63, -(2**63) - 1, 10**30, 10**400, 0.0, -0.0, 0.5, -2.5, 1e-320,
    1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
_LARGEST = 4096
"""The longest input in bytes; what is longer costs time and finds little more."""


class Draws:
    """Reads choices from bytes, so that whatever mutates bytes mutates what is made by the choices.

    When no bytes are left, every choice is the first one, so that each structure is finite.

    Args:
        data: the bytes.
        words: texts that the code under test knows, such as names of keys.
    """

    def __init__(self, data: bytes, words: Sequence[str] = ()) -> None:
        self._data = data
        self._at = 0
        self._words = words

    def below(self, number: int) -> int:
        """Returns a number from 0 to `number` − 1."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1] % number

    def text(self, longest: int = 12) -> str:
        """Returns a text: a known word, a piece of the bytes, or signs that are known to make trouble."""
        kind = self.below(4)
        if kind == 0 and self._words:
            return self._words[self.below(len(self._words))]
        if kind == 1:
            start, self._at = self._at, min(len(self._data), self._at + self.below(64) + 1)
            return self._data[start : self._at].decode(errors="replace")
        return "".join(_TEXTS[self.below(len(_TEXTS))] for _ in range(self.below(longest)))

    def maybe_text(self) -> str | None:
        """Returns a text, or None."""
        return None if self.below(5) == 4 else self.text()

    def number(self) -> float | int:
        """Returns a number, finite or not."""
        return _NUMBERS[self.below(len(_NUMBERS))]

    def value(self, depth: int = 4) -> object:
        """Returns anything that JSON can hold, and the numbers that Python's JSON holds beside."""
        kind = self.below(8 if depth else 5)
        if kind == 0:
            return None
        if kind == 1:
            return self.below(2) == 1
        if kind == 2:
            return self.number()
        if kind in (3, 4):
            return self.text()
        size = self.below(5)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(size)]
        return {self.text(): self.value(depth - 1) for _ in range(size)}


class Mutator:
    """Makes inputs from seeds, without end and without looking at what they do.

    Args:
        seeds: inputs to begin with.
        words: pieces that are put in.
        seed: what is made follows from it.
    """

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes] = (), *, seed: int = 0) -> None:
        self._pool = [piece[:_LARGEST] for piece in seeds] or [b""]
        self._words = [*words, b"\x00", b"\xff", b"\n", b'"', b"[", b"{", b"1e999", b"\xed\xa0\x80", b"-", b" "]
        self._random = random.Random(seed).random

    def one(self) -> bytes:
        """Returns the next input."""
        draw = self._random
        data = self._pool[int(draw() * len(self._pool))]
        for _ in range(1 + int(draw() * draw() * 6)):
            data = self._changed(data)
        return data

    def _changed(self, data: bytes) -> bytes:
        draw = self._random
        size = len(data)
        start = int(draw() * (size + 1))
        end = start + int(draw() * draw() * (size - start + 1))
        kind = int(draw() * 7)
        if kind == 0:
            return data[:start] + data[end:]
        if kind == 1:
            return data[:start] + bytes((int(draw() * 256),)) + data[start + 1 :]
        if kind == 2:
            piece = data[start:end] * (2 + int(1 / (draw() + 0.005)))
            return (data[:end] + piece[:_LARGEST] + data[end:])[:_LARGEST]
        if kind == 3:
            other = self._pool[int(draw() * len(self._pool))]
            return (data[:start] + other[int(draw() * len(other)) :])[:_LARGEST]
        return (data[:start] + self._words[int(draw() * len(self._words))] + data[end if kind == 4 else start :])[
            :_LARGEST
        ]
