"""Turns away prompts whose wording is too close to an earlier prompt: ROUGE-L F1, as in Self-Instruct."""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt

_Encoded = str | list[int]

_TOKEN = re.compile(r"[a-z0-9]+")
# words are written as characters while there are some left for them, and as numbers from then on
_CHARACTERS = 0x110000
_UNSEEN = 0
# the 64-bit numbers of a signature
_SIGNATURE = 4
_FIRST_ROWS = 1024
_MOST_READ = 3
# keeps the threshold inclusive: 1 - 0.55 is less than 0.45 in floating point
_ROUNDING = 1e-9
# rapidfuzz rounds a cutoff to 32 bits: 0.3 becomes 0.30000001, which a score of 0.3 does not reach
_ROUNDED_CUTOFF = 1e-6


class RougeL:
    """Compares a prompt with every admitted prompt, exactly, but aligns only those that could reach the threshold.

    Tokens are those of the `rouge-score` package without stemming; a text without any is never turned away here.
    Two texts of a and b tokens score 2·LCS/(a + b). Their longest common subsequence (LCS) is no longer than the
    number of tokens whose word is in both texts, so a score of t needs t(a + b)/2 shared tokens, and a length b of at
    least ta/(2 − t). Whoever shares that many has a word in common with any choice of so many tokens that too few are
    left without them. The rarest words are chosen, and an inverted index names the prompts that hold them, which are
    few; words that most prompts hold are not looked up. Their signatures, in which each word sets one of 256 bits,
    then tell how many of its words, at least, a prompt lacks. What could still reach the threshold is aligned:
    each word is written as one character of a string, so that the normalised Indel similarity of two strings, which
    rapidfuzz computes in 0.2 µs, is their ROUGE-L F1.

    Args:
        threshold: the least F1 that is turned away, in (0, 1].

    Raises:
        ValueError: `threshold` is outside (0, 1].

    Attributes:
        looked_up: the number of entries of the index that were read so far.
        aligned: the number of pairs of prompts that were aligned so far.
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
        self.looked_up = self.aligned = 0
        self._ids: list[str] = []
        self._encoded: list[_Encoded] = []
        self._lengths = np.zeros(_FIRST_ROWS, dtype=np.int32)
        self._signatures = np.zeros((_FIRST_ROWS, _SIGNATURE), dtype=np.uint64)
        self._floors = np.zeros(_FIRST_ROWS, dtype=np.int32)
        self._numbers: dict[str, int] = {}
        # of each word, by its number: the prompts that hold it
        self._holders: list[array[int]] = [array("q")]

    def check(self, prompt: Prompt) -> str | None:
        """Names the highest score and the earlier prompt that reaches it, the first one among equals."""
        numbers = [self._numbers.get(token, _UNSEEN) for token in _tokens(prompt)]
        rivals = self._rivals(numbers) if numbers else []
        self.aligned += len(rivals)
        best = process.extractOne(
            _encoded(numbers),
            [self._encoded[rival] for rival in rivals],
            scorer=Indel.normalized_similarity,
            score_cutoff=self._cutoff - _ROUNDED_CUTOFF,
        )
        if best is None or best[1] < self._cutoff:
            return None
        return f"ROUGE-L {best[1]:.3f} with {self._ids[rivals[best[2]]]}"

    def admit(self, prompt: Prompt) -> None:
        """Remembers the words."""
        numbers = [self._number(token) for token in _tokens(prompt)]
        for number in set(numbers):
            self._holders[number].append(len(self._ids))
        if len(self._ids) == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
            self._floors = np.concatenate([self._floors, np.zeros_like(self._floors)])
        self._signatures[len(self._ids)] = _signature(numbers)
        self._lengths[len(self._ids)] = len(numbers)
        self._floors[len(self._ids)] = -math.floor(self._cutoff * len(numbers) / 2)
        self._ids.append(prompt.id)
        self._encoded.append(_encoded(numbers))

    def _rivals(self, numbers: list[int]) -> list[int]:
        """Finds the admitted prompts, oldest first, that could reach the threshold."""
        counts = Counter(numbers)
        # with fewer shared tokens than this no prompt reaches the threshold, however short it is
        needed = math.ceil(self._cutoff * len(numbers) / (2 - self._cutoff) - _ROUNDING)
        # above −t·b/2 by the number of tokens that were looked up and are shared
        above = self._floors[: len(self._ids)].copy()
        rest = known = len(numbers) - counts.pop(_UNSEEN, 0)
        entries = 0
        for number in sorted(counts, key=self._rarity):
            holders = self._holders[number]
            entries += len(holders)
            # more words leave fewer prompts to look at, but those that most prompts hold cost more than that saves
            if rest < needed and entries > _MOST_READ * len(self._ids):
                break
            above[np.frombuffer(holders, dtype=np.int64)] += counts[number]
            rest -= counts[number]
        self.looked_up += entries
        long_enough = self._lengths[: len(self._ids)] >= needed
        some = np.flatnonzero((above >= math.floor(self._cutoff * len(numbers) / 2) - rest) & long_enough)
        # a word that was not looked up may be shared, unless the signatures say that the other has none of it
        most = known - np.bitwise_count(_signature(numbers) & ~self._signatures[some]).sum(axis=1, dtype=np.int64)
        lengths = self._lengths[some]
        return some[2 * np.minimum(most, lengths) >= self._cutoff * (lengths + len(numbers))].tolist()  # type: ignore[no-any-return]

    def _rarity(self, number: int) -> tuple[int, int]:
        return len(self._holders[number]), number

    def _number(self, token: str) -> int:
        """Returns the number of a word, which is its code point while words are written as characters."""
        if token not in self._numbers:
            self._numbers[token] = len(self._holders)
            self._holders.append(array("q"))
        return self._numbers[token]


def _encoded(numbers: list[int]) -> _Encoded:
    """Returns a sequence that rapidfuzz compares by these numbers; of a string, these are the code points."""
    return "".join(map(chr, numbers)) if max(numbers, default=0) < _CHARACTERS else numbers


def _signature(numbers: list[int]) -> NDArray[np.uint64]:
    """Returns the bits of the words, shape (4,)."""
    bits = [0] * _SIGNATURE
    for number in numbers:
        if number != _UNSEEN:
            bits[number // 64 % _SIGNATURE] |= 1 << number % 64
    return np.array(bits, dtype=np.uint64)


def _tokens(prompt: Prompt) -> list[str]:
    return _TOKEN.findall(prompt.text.lower())
