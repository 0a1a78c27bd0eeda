"""Turns away prompts that a benchmark contains, so that no one trains on what they will be tested with."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fittest.evo.prompt import Prompt

_WORDS_SHARED = 8

_WORD = re.compile(r"\w+")


class Contamination:
    """Finds any run of eight words that is also in a benchmark prompt, or all of a shorter benchmark prompt.

    Words are compared after Unicode compatibility normalisation and case folding; punctuation is ignored.

    Args:
        benchmarks: the prompts of each benchmark file by file name, in file order.
    """

    name = "contamination"
    ordered = False
    screens_pool = True
    needs_embedding = False

    def __init__(self, *, benchmarks: Mapping[str, Sequence[str]]) -> None:
        self._passages: dict[str, str] = {}
        self._short_prompts: dict[str, str] = {}
        for file, prompts in benchmarks.items():
            for number, text in enumerate(prompts, start=1):
                self._add(text, f"entry {number} of {file}")

    def check(self, prompt: Prompt) -> str | None:
        """Names the benchmark entry, and the words that are shared with it."""
        words = _words(prompt.text)
        whole = " ".join(words)
        if whole in self._short_prompts:
            return f"is {self._short_prompts[whole]}"
        for passage in _passages(words):
            if passage in self._passages:
                return f"shares {passage!r} with {self._passages[passage]}"
        return None

    def admit(self, prompt: Prompt) -> None:
        """Does nothing: the verdict does not depend on other prompts."""

    def _add(self, text: str, entry: str) -> None:
        words = _words(text)
        # a short benchmark prompt counts as a whole only: its words alone may occur in any text
        if 0 < len(words) < _WORDS_SHARED:
            self._short_prompts.setdefault(" ".join(words), entry)
        for passage in _passages(words):
            self._passages.setdefault(passage, entry)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _passages(words: list[str]) -> Iterator[str]:
    return (" ".join(words[start : start + _WORDS_SHARED]) for start in range(len(words) - _WORDS_SHARED + 1))
