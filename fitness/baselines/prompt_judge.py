"""Lets a model judge prompts: it votes whether a prompt is useful (binary), or how useful from 0 to 5 (pointwise)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fittest.evo.legible import legible
from fittest.evo.records import Completion
from fittest.fitness.baselines.wording import requests_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fittest.evo.records import Failure, Request, Sampling
    from fittest.evo.seeds import SeedTree

_Vote = TypeVar("_Vote")

# a reply that continues after its verdict would invent the next example of the list
_STOP = ("\n\n", "\nMessage:")
_VOTES = 5
_HIGHEST = 5

_OPINION = r"(?P<against>(?:\bnot|n['’]t)\W+(?:\w+\W+){0,2}?useful|\buseless|\bunuseful)\b|\b(?P<for>useful)\b"
_ONLY_OPINION = re.compile(rf"(?:\A|\n)\W*(?:{_OPINION})\W*\Z", re.IGNORECASE)
_VERDICTS = re.compile(rf"\bverdict\b\W{{0,8}}(?:is\W+)?(?:{_OPINION})", re.IGNORECASE)
# possessive: otherwise a part of a long number could be taken for a number that stands alone
_NUMBER = (
    r"(?<![-−.,\d])(?P<value>\d++(?:\.\d++)?+)(?!,\d|\s*(?:-|–|to\b)\s*\d)(?:\s*(?:/|out of)\s*(?P<scale>\d++))?+"
)
_SCALE_FIRST = r"(?:\W{0,3}(?:0\s*(?:-|–|to)\s*5|out of 5)\W{1,4})?"
_SCORES = re.compile(
    rf"\b(?:score|rating)\b{_SCALE_FIRST}(?:\W{{0,4}}[:=]\W{{0,8}}?|\W+is\W+?){_NUMBER}", re.IGNORECASE
)
_ONLY_NUMBER = re.compile(rf"(?:\A|\n)\W*?{_NUMBER}\W*\Z", re.IGNORECASE)


def _parse_binary(text: str) -> bool | None:
    """Reads a vote: what follows "Verdict", or is alone on the last line; None where that is both or neither."""
    text = legible(text)
    opinions = list(_VERDICTS.finditer(text)) or list(_ONLY_OPINION.finditer(text))
    return _agreed({opinion["for"] is not None for opinion in opinions})


def _parse_pointwise(text: str) -> float | None:
    """Reads a vote: the number after "Score" or "Rating", or a last line that is a number.

    It is None where there is no number or more than one, or where it is outside 0 to 5 or on another scale.
    """
    text = legible(text)
    numbers = list(_SCORES.finditer(text)) or list(_ONLY_NUMBER.finditer(text))
    vote = _agreed({(float(number["value"]), int(number["scale"] or _HIGHEST)) for number in numbers})
    return vote[0] if vote is not None and vote[0] <= _HIGHEST == vote[1] else None


def _agreed(found: set[_Vote]) -> _Vote | None:
    """Returns the only value found; a reply that contradicts itself is no vote."""
    return next(iter(found)) if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _PromptJudge:
    """Asks for votes on prompts, and reads them.

    Attributes:
        template: the file that words the question.
        parse: reads a vote; None where a text holds none.
    """

    template: str
    parse: Callable[[str], float | None]

    def requests(
        self, prompts: Sequence[str], seeds: SeedTree, sampling: Sampling, *, votes: int = _VOTES
    ) -> list[Request]:
        """Asks `votes` times about each prompt, prompt after prompt; `scores` reads the replies.

        Args:
            prompts: the prompts to judge.
            seeds: the seed tree; a vote's seed depends on its prompt and its number alone.
            sampling: how votes are drawn; at temperature 0 all votes on a prompt are equal.
            votes: the votes on each prompt; RIP takes five (arXiv 2501.18578, appendix A.5).
        """
        return [
            request
            for prompt in prompts
            for request in requests_about(
                prompt, self.template, votes=votes, seeds=seeds, sampling=sampling, stop=_STOP
            )
        ]

    def scores(self, replies: Sequence[Completion | Failure], *, votes: int = _VOTES) -> NDArray[np.float64]:
        """Returns the mean of each prompt's readable votes, shape (prompts,).

        A failure and an unreadable vote count neither for nor against a prompt.

        Args:
            replies: the replies to `requests`, in their order, shape (prompts × votes,).
            votes: the votes on each prompt, as they were asked for.

        Returns:
            The means; NaN for a prompt without a readable vote.

        Raises:
            ValueError: the replies are no multiple of the votes.
        """
        if len(replies) % votes:
            raise ValueError(f"{len(replies)} replies are no multiple of {votes} votes")
        read = [self.parse(reply.text) if isinstance(reply, Completion) else None for reply in replies]
        table = np.array([np.nan if vote is None else vote for vote in read], dtype=np.float64).reshape(-1, votes)
        there = np.isfinite(table)
        means = np.full(len(table), np.nan)
        np.divide(np.where(there, table, 0.0).sum(axis=1), there.sum(axis=1), out=means, where=there.any(axis=1))
        return means


BINARY = _PromptJudge("judge_binary.j2", _parse_binary)
"""Asks whether a prompt is useful; a score is the share of votes that say so, in [0, 1]."""

POINTWISE = _PromptJudge("judge_pointwise.j2", _parse_pointwise)
"""Asks how useful a prompt is; a score is from 0 to 5."""
