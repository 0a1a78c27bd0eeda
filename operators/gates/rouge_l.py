"""Turns away prompts whose wording is too close to a prompt that was there before (ROUGE-L F1, as Self-Instruct)."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from rapidfuzz import process
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from evo.prompt import Prompt

_TOKEN = re.compile(r"[a-z0-9]+")
_FIRST_SURROGATE, _SURROGATES = 0xD800, 0x800
_UNSEEN = "\0"


class RougeL:
    """Compares with every admitted prompt, exactly, but looks only at those that could reach the threshold.

    Tokens are those of the `rouge-score` package without stemming; a text without any is never turned away here.
    A pair of a and b tokens reaches the threshold t only if their common subsequence has at least t(a + b)/2 tokens,
    hence at least ta/(2 − t). So of any a − ta/(2 − t) + 1 of the prompt's tokens the other shares at least one, and
    the prompts that contain one of the rarest are all that need comparing (prefix filtering, Chaudhuri et al. 2006).
    Each word is one character of a string, which makes the normalised Indel similarity of two strings their ROUGE-L F1.

    Args:
        threshold: the least F1 that is turned away, in (0, 1].
    """

    name = "rouge_l"
    ordered = True
    screens_pool = False
    needs_embedding = False

    def __init__(self, *, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold must lie in (0, 1]; found {threshold}")
        self.threshold = threshold
        self._ids: list[str] = []
        self._encoded: list[str] = []
        self._letters: dict[str, str] = {}
        self._holders: dict[str, array[int]] = {}

    def check(self, prompt: Prompt) -> str | None:
        """Give the highest score and the earlier prompt that it was reached with, the first one among equals."""
        encoded = "".join(self._letters.get(token, _UNSEEN) for token in _tokens(prompt))
        rivals = self._rivals(encoded)
        best = process.extractOne(
            encoded,
            [self._encoded[rival] for rival in rivals],
            scorer=Indel.normalized_similarity,
            score_cutoff=self.threshold,
        )
        return None if best is None else f"ROUGE-L {best[1]:.3f} with {self._ids[rivals[best[2]]]}"

    def admit(self, prompt: Prompt) -> None:
        """Remember the words."""
        encoded = "".join(self._letter(token) for token in _tokens(prompt))
        for letter in dict.fromkeys(encoded):
            self._holders[letter].append(len(self._ids))
        self._ids.append(prompt.id)
        self._encoded.append(encoded)

    def _rivals(self, encoded: str) -> list[int]:
        """The admitted prompts, oldest first, that the threshold is not out of reach for."""
        if not encoded:
            return []
        shortest = math.ceil(self.threshold * len(encoded) / (2.0 - self.threshold) - 1e-9)
        longest = math.floor(len(encoded) * (2.0 - self.threshold) / self.threshold + 1e-9)
        to_probe = len(encoded) - shortest + 1
        found: set[int] = set()
        counts = Counter(encoded)
        for letter in sorted(counts, key=lambda letter: len(self._holders.get(letter, ()))):
            if to_probe <= 0:
                break
            found.update(self._holders.get(letter, ()))
            to_probe -= counts[letter]
        return [rival for rival in sorted(found) if shortest <= len(self._encoded[rival]) <= longest]

    def _letter(self, token: str) -> str:
        """The one character that stands for a word; surrogates are no characters, and NUL is for words never seen."""
        if token not in self._letters:
            number = len(self._letters) + 1
            letter = chr(number if number < _FIRST_SURROGATE else number + _SURROGATES)
            self._letters[token] = letter
            self._holders[letter] = array("I")
        return self._letters[token]


def _tokens(prompt: Prompt) -> list[str]:
    return _TOKEN.findall(prompt.text.lower())
