"""What the preference head sees of a pair besides its embeddings: counts and shares that a person can check."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_LINK = re.compile(r"https?:|www\.|\.(?:com|org)\b")
_REFUSAL = re.compile(
    r"\bI can(?:no|['’])t|\bI['’]m (?:not (?:sure|able|familiar)|unable)|\bI do(?: not|n['’]t) (?:know|have|understand)"
    r"|\bunfortunately\b|\blanguage model\b",
    re.IGNORECASE,
)
_APOLOGY = re.compile(r"\b(?:sorry|apolog\w+)", re.IGNORECASE)
_FILLER = re.compile(r"(?:u[mh]+|hm+|oh|ah|well|ok|okay|alright|huh|yeah)\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|I['’](?:m|ve|ll|d)|me|my)\b", re.IGNORECASE)
_POLITENESS = re.compile(r"\b(?:you['’]re welcome|glad|happy to|of course|hope (?:this|that)|thank)", re.IGNORECASE)
_FUNCTION_WORDS = frozenset(
    "a about an and any are as at be but by can could did do does for from has have how i if in is it me my not of on"
    " or some so that the there this to was we what when where which who why with would should you your".split()
)


@dataclass(frozen=True)
class Pair:
    """A prompt and a response with the counts that several features share."""

    prompt: str
    response: str

    @cached_property
    def words(self) -> list[str]:
        """The words of the response, in lower case."""
        return _WORD.findall(self.response.lower())

    @cached_property
    def content(self) -> set[str]:
        """The distinct words of the response that are not function words."""
        return set(self.words) - _FUNCTION_WORDS

    @cached_property
    def prompt_content(self) -> set[str]:
        """The distinct words of the prompt that are not function words."""
        return set(_WORD.findall(self.prompt.lower())) - _FUNCTION_WORDS

    @cached_property
    def sentences(self) -> int:
        """The sentences of the response, one at least."""
        return max(1, self.count(_SENTENCE_END))

    @property
    def log_words(self) -> float:
        """ln(1 + words): a word more matters less in a long answer."""
        return math.log1p(len(self.words))

    def count(self, pattern: re.Pattern[str]) -> int:
        """How often the pattern occurs in the response."""
        return sum(1 for _ in pattern.finditer(self.response))

    def share(self, matching: int) -> float:
        """A number of words as a share of all words of the response; few words give small shares."""
        return matching / (len(self.words) + 5)


class Feature(NamedTuple):
    """One number about a pair: its name, why the head looks at it, and how it is measured."""

    name: str
    why: str
    measure: Callable[[Pair], float]


def _repeated(pair: Pair, run: int) -> float:
    runs = list(zip(*(pair.words[start:] for start in range(run)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


SURFACE: tuple[Feature, ...] = ()


def surface_features(prompt: str, response: str) -> NDArray[np.float64]:
    """The surface features of a pair, shape (len(SURFACE),), finite for any text."""
    pair = Pair(prompt, response)
    return np.array([feature.measure(pair) for feature in SURFACE])
