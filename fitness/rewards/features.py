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
_SECOND_PERSON = re.compile(r"\byou(?:r|['’](?:re|ll|ve|d))?\b", re.IGNORECASE)
_AGREEMENT = re.compile(r"(?:yes|sure)\b", re.IGNORECASE)
_FINISHED = re.compile(r"[.!?:)\]\"”’`]\s*\Z")
_CAPITALISED = re.compile(r"\b[A-Z]\w*")
_NEW_LINE = re.compile(r"\n")
_QUESTION = re.compile(r"\?")
_EXCLAMATION = re.compile(r"!")
_QUOTE = re.compile(r"[\"“]")
_DIGIT = re.compile(r"\d")
_COMMA = re.compile(r",")
_MANY_WORDS = 400
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
    def prompt_words(self) -> list[str]:
        """The words of the prompt, in lower case."""
        return _WORD.findall(self.prompt.lower())

    @cached_property
    def prompt_content(self) -> set[str]:
        """The distinct words of the prompt that are not function words."""
        return set(self.prompt_words) - _FUNCTION_WORDS

    @property
    def new_content(self) -> set[str]:
        """The content words of the response that the prompt did not hold."""
        return self.content - self.prompt_content

    @property
    def function_words(self) -> int:
        """How many words of the response are function words."""
        return sum(word in _FUNCTION_WORDS for word in self.words)

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

    def share(self, matching: int) -> float:
        """A number of words as a share of all words of the response; few words give small shares."""
        return matching / (len(self.words) + 5)


class Feature(NamedTuple):
    """One number about a pair: its name, why the head looks at it, and how it is measured."""

    name: str
    why: str
    measure: Callable[[Pair], float]


def _only_asks(pair: Pair) -> bool:
    questions = pair.count(_QUESTION)
    return questions >= pair.sentences and len(pair.words) < 40


def _overlap(pair: Pair, of: set[str]) -> float:
    """Content words that prompt and response share, as a share of `of`."""
    return len(pair.content & pair.prompt_content) / (len(of) + 1)


def _repeated(pair: Pair, run: int) -> float:
    runs = list(zip(*(pair.words[start:] for start in range(run)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


SURFACE: tuple[Feature, ...] = (
    Feature("log_words", "an answer has to say something", lambda pair: pair.log_words),
    Feature("words", "past a point more words help no longer", lambda pair: min(len(pair.words), _MANY_WORDS) / 100),
    Feature(
        "log_words_if_asked",
        "a question wants more of an answer than a remark does",
        lambda pair: pair.log_words * ("?" in pair.prompt),
    ),
    Feature(
        "log_words_by_prompt",
        "a long prompt wants another length than a short one",
        lambda pair: pair.log_words * math.log1p(len(pair.prompt_words)),
    ),
    Feature("sentences", "one thought or several", lambda pair: math.log1p(pair.sentences)),
    Feature("sentence_length", "clipped or winding", lambda pair: math.log1p(len(pair.words) / pair.sentences)),
    Feature("lines", "laid out or run together", lambda pair: pair.log_count(_NEW_LINE)),
    Feature("list_items", "steps and options are wanted as lists", lambda pair: pair.log_count(_LIST_ITEM)),
    Feature("asks", "asking back instead of answering", lambda pair: float("?" in pair.response)),
    Feature("questions", "how much is asked back", lambda pair: pair.log_count(_QUESTION)),
    Feature("ends_asking", "a last question keeps the talk going", lambda pair: float(pair.response.endswith("?"))),
    Feature("only_asks", "a short reply that is nothing but questions", lambda pair: float(_only_asks(pair))),
    Feature("refusals", "saying what it cannot do or does not know", lambda pair: pair.log_count(_REFUSAL)),
    Feature("apologies", "apologising instead of helping", lambda pair: pair.log_count(_APOLOGY)),
    Feature("filler", "opens with um, oh, well", lambda pair: float(bool(_FILLER.match(pair.response)))),
    Feature("first_person", "talks about itself", lambda pair: pair.log_count(_FIRST_PERSON)),
    Feature("second_person", "talks to the reader", lambda pair: pair.log_count(_SECOND_PERSON)),
    Feature("politeness", "friendly without being asked", lambda pair: pair.log_count(_POLITENESS)),
    Feature("exclamations", "enthusiasm, or shouting", lambda pair: pair.log_count(_EXCLAMATION)),
    Feature("links", "small models invent addresses", lambda pair: pair.log_count(_LINK)),
    Feature("quotes", "quotations and titles, often invented", lambda pair: pair.log_count(_QUOTE)),
    Feature("digits", "figures, often invented", lambda pair: pair.log_count(_DIGIT)),
    Feature(
        "finished", "cut off answers end in mid-sentence", lambda pair: float(bool(_FINISHED.search(pair.response)))
    ),
    Feature(
        "new_content", "content words that the prompt did not hold", lambda pair: math.log1p(len(pair.new_content))
    ),
    Feature(
        "variety",
        "distinct words as a share: low when it goes in circles",
        lambda pair: pair.share(len(set(pair.words))),
    ),
    Feature("repeated_pairs", "word pairs said again", lambda pair: _repeated(pair, run=2)),
    Feature("repeated_triples", "phrases said again", lambda pair: _repeated(pair, run=3)),
    Feature("prompt_covered", "how much of the prompt is taken up", lambda pair: _overlap(pair, pair.prompt_content)),
    Feature("parroting", "how much of the response is the prompt again", lambda pair: _overlap(pair, pair.content)),
    Feature("capitals", "names and titles", lambda pair: pair.share(pair.count(_CAPITALISED))),
    Feature("word_length", "plain or learned words", lambda pair: min(pair.share(sum(map(len, pair.words))), 12.0)),
    Feature(
        "function_words",
        "whole sentences hold them, bare lists and rubbish do not",
        lambda pair: pair.share(pair.function_words),
    ),
    Feature("commas", "enumerations and asides", lambda pair: min(pair.share(pair.count(_COMMA)), 1.0)),
    Feature("agrees", "opens with yes or sure", lambda pair: float(bool(_AGREEMENT.match(pair.response)))),
)


def surface_features(prompt: str, response: str) -> NDArray[np.float64]:
    """The surface features of a pair, shape (len(SURFACE),), finite for any text."""
    pair = Pair(prompt, response)
    return np.array([feature.measure(pair) for feature in SURFACE])
