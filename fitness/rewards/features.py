"""What the preference head sees of a pair: one relevance from embeddings, and counts that a person can check."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_NEW_LINE = re.compile(r"\n")
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_QUESTION = re.compile(r"\?")
_REFUSAL = re.compile(
    r"\bI can(?:no|['’])t|\bI['’]m (?:not (?:sure|able|familiar)|unable)"
    r"|\bI do(?: not|n['’]t) (?:know|have|understand)|\bunfortunately\b|\blanguage model\b",
    re.IGNORECASE,
)
_APOLOGY = re.compile(r"\b(?:sorry|apolog\w+)", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|I['’](?:m|ve|ll|d)|me|my)\b", re.IGNORECASE)
_AGREEMENT = re.compile(r"(?:yes|sure)\b", re.IGNORECASE)
_LINK = re.compile(r"https?:|www\.|\.(?:com|org)\b")
_QUOTE = re.compile(r"[\"“]")
_DIGIT = re.compile(r"\d")
_COMMA = re.compile(r",")
_CAPITALISED = re.compile(r"\b[A-Z]\w*")
_FINISHED = re.compile(r"[.!?:)\]\"”’`]\s*\Z")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about an and any are as at be but by can could did do does for from has have how i if in is it me my not of"
        " on or some so that the there this to was we what when where which who why with would should you your",
    )
)
_MANY_WORDS = 400
_ON_TOPIC = 0.25


@dataclass(frozen=True)
class Pair:
    """A prompt and a response, the cosine of their embeddings, and the counts that several features share."""

    prompt: str
    response: str
    relevance: float

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

    def log_count(self, pattern: re.Pattern[str]) -> float:
        """ln(1 + occurrences in the response)."""
        return math.log1p(self.count(pattern))

    def share(self, count: int) -> float:
        """A count per word of the response; a response of few words gets a small share."""
        return count / (len(self.words) + 5)


class Feature(NamedTuple):
    """One number about a pair: its name, why the head looks at it, and how it is measured."""

    name: str
    why: str
    measure: Callable[[Pair], float]


def _only_asks(pair: Pair) -> bool:
    return pair.count(_QUESTION) >= pair.sentences and len(pair.words) < 40


def _prompt_covered(pair: Pair) -> float:
    return len(pair.content & pair.prompt_content) / (len(pair.prompt_content) + 1)


def _repeated_pairs(pair: Pair) -> float:
    following = list(zip(pair.words, pair.words[1:], strict=False))
    return 1 - len(set(following)) / len(following) if following else 0.0


FEATURES: tuple[Feature, ...] = (
    Feature("relevance", "the answer speaks of what was asked", lambda pair: pair.relevance),
    Feature("off_topic", "below a cosine of 0.25 it does not", lambda pair: max(0.0, _ON_TOPIC - pair.relevance)),
    Feature("prompt_covered", "how much of the prompt is taken up", _prompt_covered),
    Feature("new_content", "it adds words", lambda pair: math.log1p(len(pair.content - pair.prompt_content))),
    Feature("log_words", "an answer has to say something", lambda pair: pair.log_words),
    Feature("words", "past a point more says no more", lambda pair: min(len(pair.words), _MANY_WORDS)),
    Feature(
        "log_words_if_asked", "a question wants a fuller reply", lambda pair: pair.log_words * ("?" in pair.prompt)
    ),
    Feature("sentences", "one thought or several", lambda pair: math.log1p(pair.sentences)),
    Feature("sentence_length", "clipped or winding", lambda pair: math.log1p(len(pair.words) / pair.sentences)),
    Feature("lines", "laid out or run together", lambda pair: pair.log_count(_NEW_LINE)),
    Feature("list_items", "steps and options are wanted as lists", lambda pair: pair.log_count(_LIST_ITEM)),
    Feature("asks", "asking back delays the answer", lambda pair: "?" in pair.response),
    Feature("ends_asking", "so does a question at the end", lambda pair: pair.response.endswith("?")),
    Feature("only_asks", "a short reply of nothing but questions", _only_asks),
    Feature("refusals", "saying what it cannot do or does not know", lambda pair: pair.log_count(_REFUSAL)),
    Feature("apologies", "apologising instead of helping", lambda pair: pair.log_count(_APOLOGY)),
    Feature("first_person", "talking about itself", lambda pair: pair.log_count(_FIRST_PERSON)),
    Feature("agrees", "opening with yes or sure", lambda pair: _AGREEMENT.match(pair.response) is not None),
    Feature("links", "small models invent addresses", lambda pair: pair.log_count(_LINK)),
    Feature("quotes", "quotations and titles, often invented", lambda pair: pair.log_count(_QUOTE)),
    Feature("digits", "figures, often invented", lambda pair: pair.log_count(_DIGIT)),
    Feature(
        "finished", "a cut answer stops inside a sentence", lambda pair: _FINISHED.search(pair.response) is not None
    ),
    Feature("repeated_pairs", "going in circles: word pairs said again", _repeated_pairs),
    Feature("capitals", "names make an answer specific", lambda pair: pair.share(pair.count(_CAPITALISED))),
    Feature("word_length", "plain or learned words", lambda pair: pair.share(sum(map(len, pair.words)))),
    Feature(
        "function_words",
        "sentences, or bare lists",
        lambda pair: pair.share(sum(map(_FUNCTION_WORDS.__contains__, pair.words))),
    ),
    Feature("commas", "enumerations and asides", lambda pair: pair.share(pair.count(_COMMA))),
)


def measure(prompt: str, response: str, relevance: float) -> NDArray[np.float64]:
    """The features of a pair in the order of `FEATURES`, shape (len(FEATURES),), finite for any text."""
    pair = Pair(prompt, response, relevance)
    return np.array([feature.measure(pair) for feature in FEATURES], dtype=np.float64)
