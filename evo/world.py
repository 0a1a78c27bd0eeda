"""A landscape over words, in which the truth about every prompt is known: it stands in for a model and a reward."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from statistics import NormalDist

LOCI = 20
"""How many words of a prompt count, from its first on; an offspring has as many."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_STANDARD = NormalDist()

# How prompts differ, and how answers to one of them do. With these, at noise 0.6 and five answers, cuts at the medians
# keep as many prompts, and as many of them again on fresh answers, as they do on real answers (benchmarks/retest.py).
_MEDIAN_WORDS = 20.0
_LENGTH_BETWEEN, _LENGTH_WITHIN = 0.5, 0.3
_SPREAD_BETWEEN = 0.7
# longer answers differ more in quality; without this, the three metrics would hardly stand against each other
_SPREAD_OF_LENGTH, _SPREAD_OF_ITS_OWN = 0.8, 0.6


@dataclass(frozen=True, slots=True)
class Truth:
    """Says what a prompt is really worth.

    Attributes:
        quality: the mean reward of its answers; over random prompts and landscapes it has mean 0 and variance 1.
        spread: the standard deviation of the rewards of its answers.
        words: the median length of its answers in words.
    """

    quality: float
    spread: float
    words: float


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """An NK landscape over the words of a prompt (Kauffman and Weinberger 1989, Journal of Theoretical Biology 141).

    The first `LOCI` words of a prompt form a ring. Each of them, together with those that follow it, contributes a
    standard normal value to quality, another to spread and a third to length; phrases that stand there twice count
    once. A phrase contributes the same wherever it stands, so an offspring has of its parents what it takes over in
    whole phrases.

    Attributes:
        heritability: the slope of the true quality of offspring on the mean of those that they are bred from, where
            these have `LOCI` words or more; the same for spread (its logarithm) and length. 0 to 0.5.
        ruggedness: K, the number of following words that a contribution depends on. 0 to 9.
        noise: the typical standard deviation of the rewards of answers to one prompt. Lengths vary with it.
        empty: the share of proposals that come back empty.
        seed: of the landscape.
    """

    heritability: float = 0.2
    ruggedness: int = 2
    noise: float = 0.6
    empty: float = 0.02
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Returns all settings, in the order in which they are declared."""
        settings = zip(fields(self), astuple(self), strict=True)
        return "world:1:" + ",".join(f"{field.name}={value}" for field, value in settings)

    def truth(self, prompt: str) -> Truth:
        """Returns the truth about a prompt, which is a function of its text and of the settings."""
        quality, length, own = _traits(prompt, self.ruggedness, self.seed)
        spread = _SPREAD_BETWEEN * (_SPREAD_OF_LENGTH * length + _SPREAD_OF_ITS_OWN * own)
        return Truth(quality, self.noise * math.exp(spread), _MEDIAN_WORDS * math.exp(_LENGTH_BETWEEN * length))

    def reward(self, prompt: str, answer: str) -> float:
        """Returns the reward of an answer: the quality of its prompt, and a deviation that its text stands for."""
        truth = self.truth(prompt)
        (deviation,) = _normals(f"{self.seed}\0{prompt}\0{answer}", count=1)
        return truth.quality + truth.spread * deviation

    def answer_words(self, prompt: str, rng: random.Random) -> int:
        """Draws the length of an answer in words."""
        return max(1, round(self.truth(prompt).words * math.exp(_LENGTH_WITHIN * self.noise * rng.gauss(0.0, 1.0))))

    def offspring(self, family: Sequence[str], vocabulary: Sequence[str], rng: random.Random) -> list[str]:
        """Returns the words of an offspring, or none for an empty reply.

        Phrases come in one piece from each of two members of the family, or from one where there is no room for
        more; each piece holds `ruggedness` words beyond the phrases that it keeps whole. All other words are new.

        Args:
            family: the prompts that it is bred from; without any, all words are new.
            vocabulary: the words that new ones are drawn from.
            rng: draws everything.
        """
        if rng.random() < self.empty:
            return []
        # rounded up or down at random, so that the mean is exact
        whole = int(self.heritability * LOCI + rng.random())
        known = [words for words in map(_words, family) if words]
        pieces = min(len(known), 2, whole)
        if whole + pieces * self.ruggedness > LOCI:
            pieces = min(pieces, 1)
        words: list[str] = []
        for place, parent in enumerate(rng.sample(known, pieces)):
            share = (whole + place) // pieces
            start = rng.randrange(len(parent))
            words += [parent[(start + i) % len(parent)] for i in range(share + self.ruggedness)]
        return words + rng.sample(vocabulary, LOCI - len(words))


def _words(prompt: str) -> list[str]:
    """Returns the words of a prompt that count."""
    return _WORD.findall(prompt.lower())[:LOCI]


@lru_cache(maxsize=1 << 14)
def _traits(prompt: str, ruggedness: int, seed: int) -> tuple[float, float, float]:
    """Returns three standard normal values: quality, and what length and spread follow from."""
    words = _words(prompt)
    if not words:
        return 0.0, 0.0, 0.0
    ring = [" ".join(words[(i + j) % len(words)] for j in range(ruggedness + 1)) for i in range(len(words))]
    # a phrase counts once, since otherwise the best of all prompts would be one good phrase over and over
    contributions = [_contributions(phrase, seed) for phrase in dict.fromkeys(ring)]
    quality, length, own = (math.fsum(values) / math.sqrt(len(words)) for values in zip(*contributions, strict=True))
    return quality, length, own


@lru_cache(maxsize=1 << 16)
def _contributions(phrase: str, seed: int) -> tuple[float, ...]:
    return _normals(f"{seed}\0{phrase}", count=3)


def _normals(text: str, *, count: int) -> tuple[float, ...]:
    """Returns standard normal values that a text stands for."""
    digest = hashlib.blake2b(text.encode(), digest_size=8 * count).digest()
    # 53 bits and a half: neither 0 nor 1 is reached, for which there is no value
    uniforms = ((int.from_bytes(digest[8 * i : 8 * i + 8], "big") >> 11) + 0.5 for i in range(count))
    return tuple(_STANDARD.inv_cdf(uniform / 2**53) for uniform in uniforms)
