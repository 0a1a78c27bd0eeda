"""Turns away prompts whose wording is too close to an earlier prompt: ROUGE-L F1, as in Self-Instruct."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt

_TOKEN = re.compile(r"[a-z0-9]+")
_FIRST_SURROGATE, _SURROGATES = 0xD800, 0x800
_UNSEEN = "\0"
# keeps the threshold inclusive: 1 - 0.55 is less than 0.45 in floating point
_ROUNDING = 1e-9


class RougeL:
    """Compares a prompt with every admitted prompt, exactly, but aligns only those that could reach the threshold.

    Tokens are those of the `rouge-score` package without stemming; a text without any is never turned away here.
    Two texts of a and b tokens score 2·LCS/(a + b). Their longest common subsequence (LCS) is no longer than the
    number of tokens whose word is in both texts. An inverted index counts these for the whole archive at once, and
    leaves very few prompts to align. Each word is written as one character of a string, so that the normalised Indel
    similarity of two strings, which rapidfuzz computes in 0.2 µs, is their ROUGE-L F1.

    Args:
        threshold: the least F1 that is turned away, in (0, 1].

    Raises:
        ValueError: `threshold` is outside (0, 1].
    """

    name = "rouge_l"
    ordered = True
    screens_pool = False
    needs_embedding = False

    def __init__(self, *, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold must lie in (0, 1]; found {threshold}")
        self.threshold = threshold
        self._cutoff = threshold - _ROUNDING
        self._ids: list[str] = []
        self._encoded: list[str] = []
        self._lengths = array("q")
        self._letters: dict[str, str] = {}
        self._holders: dict[str, array[int]] = {}

    def check(self, prompt: Prompt) -> str | None:
        """Names the highest score and the earlier prompt that reaches it, the first one among equals."""
        encoded = "".join(self._letters.get(token, _UNSEEN) for token in _tokens(prompt))
        rivals = self._rivals(encoded) if encoded else []
        best = process.extractOne(
            encoded,
            [self._encoded[rival] for rival in rivals],
            scorer=Indel.normalized_similarity,
            score_cutoff=self._cutoff,
        )
        return None if best is None else f"ROUGE-L {best[1]:.3f} with {self._ids[rivals[best[2]]]}"

    def admit(self, prompt: Prompt) -> None:
        """Remembers the words."""
        encoded = "".join(self._letter(token) for token in _tokens(prompt))
        for letter in dict.fromkeys(encoded):
            self._holders[letter].append(len(self._ids))
        self._ids.append(prompt.id)
        self._encoded.append(encoded)
        self._lengths.append(len(encoded))

    def _rivals(self, encoded: str) -> list[int]:
        """Finds the admitted prompts, oldest first, that share enough words to reach the threshold."""
        shared = np.zeros(len(self._ids), dtype=np.int64)
        for letter, count in Counter(encoded).items():
            if letter in self._holders:
                shared[np.frombuffer(self._holders[letter], dtype=np.int64)] += count
        lengths = np.frombuffer(self._lengths, dtype=np.int64)
        enough = 2 * shared >= self._cutoff * (lengths + len(encoded))
        return np.flatnonzero(enough).tolist()

    def _letter(self, token: str) -> str:
        """Returns the character that stands for a word; surrogates are no characters, and NUL stands for new words."""
        if token not in self._letters:
            number = len(self._letters) + 1
            letter = chr(number if number < _FIRST_SURROGATE else number + _SURROGATES)
            self._letters[token] = letter
            self._holders[letter] = array("q")
        return self._letters[token]


def _tokens(prompt: Prompt) -> list[str]:
    return _TOKEN.findall(prompt.text.lower())
