"""Measures what the preference head sees of an answer: relevance from embeddings, and counts that a person can check.

The features, their order and every pattern belong to the trained coefficients (head.json): a change needs a new
training. `why` is printed in the card of the head.
"""

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
class _Answer:
    """Holds a response with its prompt, the cosine of their embeddings, and counts that several features share."""

    prompt: str
    response: str
    relevance: float

    @cached_property
    def words(self) -> list[str]:
        """Returns the words of the response, in lower case."""
        return _WORD.findall(self.response.lower())

    @cached_property
    def content(self) -> set[str]:
        """Returns the distinct words of the response that are not function words."""
        return set(self.words) - _FUNCTION_WORDS

    @cached_property
    def prompt_content(self) -> set[str]:
        """Returns the distinct words of the prompt that are not function words."""
        return set(_WORD.findall(self.prompt.lower())) - _FUNCTION_WORDS

    @cached_property
    def sentences(self) -> int:
        """Returns the number of sentences of the response, at least one."""
        return max(1, self.count(_SENTENCE_END))

    @property
    def log_words(self) -> float:
        """Returns ln(1 + words), because one more word matters less in a long answer."""
        return math.log1p(len(self.words))

    def count(self, pattern: re.Pattern[str]) -> int:
        """Returns how often the pattern occurs in the response."""
        return sum(1 for _ in pattern.finditer(self.response))

    def log_count(self, pattern: re.Pattern[str]) -> float:
        """Returns ln(1 + occurrences in the response)."""
        return math.log1p(self.count(pattern))

    def share(self, count: int) -> float:
        """Returns a count per word of the response; the 5 keeps it small for a response of few words."""
        return count / (len(self.words) + 5)


class _Feature(NamedTuple):
    """Describes one number about an answer: its name, why the head looks at it, and how it is measured."""

    name: str
    why: str
    measure: Callable[[_Answer], float]


def _only_asks(answer: _Answer) -> bool:
    return answer.count(_QUESTION) >= answer.sentences and len(answer.words) < 40


def _prompt_covered(answer: _Answer) -> float:
    return len(answer.content & answer.prompt_content) / (len(answer.prompt_content) + 1)


def _repeated_pairs(answer: _Answer) -> float:
    following = list(zip(answer.words, answer.words[1:], strict=False))
    return 1 - len(set(following)) / len(following) if following else 0.0


FEATURES: tuple[_Feature, ...] = (
    _Feature("relevance", "the answer speaks of what was asked", lambda answer: answer.relevance),
    _Feature("off_topic", "below a cosine of 0.25 it does not", lambda answer: max(0.0, _ON_TOPIC - answer.relevance)),
    _Feature("prompt_covered", "how much of the prompt is taken up", _prompt_covered),
    _Feature("new_content", "it adds words", lambda answer: math.log1p(len(answer.content - answer.prompt_content))),
    _Feature("log_words", "an answer has to say something", lambda answer: answer.log_words),
    _Feature("words", "past a point more says no more", lambda answer: min(len(answer.words), _MANY_WORDS)),
    _Feature(
        "log_words_if_asked",
        "a question wants a fuller reply",
        lambda answer: answer.log_words * ("?" in answer.prompt),
    ),
    _Feature("sentences", "one thought or several", lambda answer: math.log1p(answer.sentences)),
    _Feature("sentence_length", "clipped or winding", lambda answer: math.log1p(len(answer.words) / answer.sentences)),
    _Feature("lines", "laid out or run together", lambda answer: answer.log_count(_NEW_LINE)),
    _Feature("list_items", "steps and options are wanted as lists", lambda answer: answer.log_count(_LIST_ITEM)),
    _Feature("asks", "asking back delays the answer", lambda answer: "?" in answer.response),
    _Feature("ends_asking", "so does a question at the end", lambda answer: answer.response.endswith("?")),
    _Feature("only_asks", "a short reply of nothing but questions", _only_asks),
    _Feature("refusals", "saying what it cannot do or does not know", lambda answer: answer.log_count(_REFUSAL)),
    _Feature("apologies", "apologising instead of helping", lambda answer: answer.log_count(_APOLOGY)),
    _Feature("first_person", "talking about itself", lambda answer: answer.log_count(_FIRST_PERSON)),
    _Feature("agrees", "opening with yes or sure", lambda answer: _AGREEMENT.match(answer.response) is not None),
    _Feature("links", "small models invent addresses", lambda answer: answer.log_count(_LINK)),
    _Feature("quotes", "quotations and titles, often invented", lambda answer: answer.log_count(_QUOTE)),
    _Feature("digits", "figures, often invented", lambda answer: answer.log_count(_DIGIT)),
    _Feature(
        "finished",
        "a cut answer stops inside a sentence",
        lambda answer: _FINISHED.search(answer.response) is not None,
    ),
    _Feature("repeated_pairs", "going in circles: word pairs said again", _repeated_pairs),
    _Feature("capitals", "names make an answer specific", lambda answer: answer.share(answer.count(_CAPITALISED))),
    _Feature("word_length", "plain or learned words", lambda answer: answer.share(sum(map(len, answer.words)))),
    _Feature(
        "function_words",
        "sentences, or bare lists",
        lambda answer: answer.share(sum(map(_FUNCTION_WORDS.__contains__, answer.words))),
    ),
    _Feature("commas", "enumerations and asides", lambda answer: answer.share(answer.count(_COMMA))),
)


def measure(prompt: str, response: str, relevance: float) -> NDArray[np.float64]:
    """Returns the features of an answer in the order of `FEATURES`, shape (len(FEATURES),), finite for any text."""
    answer = _Answer(prompt, response, relevance)
    return np.array([feature.measure(answer) for feature in FEATURES], dtype=np.float64)
