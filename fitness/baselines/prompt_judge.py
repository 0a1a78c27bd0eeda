"""LLM-as-prompt-judge: a model votes whether a prompt is useful (binary), or how useful from 0 to 5 (pointwise)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fittest.evo.records import Completion
from fittest.fitness.baselines.wording import requests_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fittest.evo.records import Failure, Request, Sampling
    from fittest.evo.seeds import SeedTree

Vote = TypeVar("Vote")

BINARY_TEMPLATE = "judge_binary.j2"
POINTWISE_TEMPLATE = "judge_pointwise.j2"
STOP = ("\n\n", "\nMessage:")
VOTES = 5
HIGHEST = 5

_OPINION = r"(?P<against>(?:\bnot|n['’]t)\W+(?:\w+\W+){0,2}?useful|\buseless|\bunuseful)\b|\b(?P<for>useful)\b"
_ONLY_OPINION = re.compile(rf"(?:\A|\n)\W*(?:{_OPINION})\W*\Z", re.IGNORECASE)
_VERDICTS = re.compile(rf"\bverdict\b\W{{0,8}}(?:is\W+)?(?:{_OPINION})", re.IGNORECASE)
_NUMBER = (
    r"(?<![-−.,\d])(?P<value>\d++(?:\.\d++)?+)(?!,\d|\s*(?:-|–|to\b)\s*\d)(?:\s*(?:/|out of)\s*(?P<scale>\d++))?+"
)
_SCALE_FIRST = r"(?:\W{0,3}(?:0\s*(?:-|–|to)\s*5|out of 5)\W{1,4})?"
_SCORES = re.compile(
    rf"\b(?:score|rating)\b{_SCALE_FIRST}(?:\W{{0,4}}[:=]\W{{0,8}}?|\W+is\W+?){_NUMBER}", re.IGNORECASE
)
_ONLY_NUMBER = re.compile(rf"(?:\A|\n)\W*?{_NUMBER}\W*\Z", re.IGNORECASE)


def binary_requests(
    prompts: Sequence[str], seeds: SeedTree, sampling: Sampling, *, votes: int = VOTES
) -> list[Request]:
    """`votes` requests per prompt whether it is useful, prompt after prompt; `binary_scores` reads the replies.

    Args:
        prompts: what is judged.
        seeds: a vote's seed depends on its prompt and its number alone.
        sampling: with a temperature above 0, or all votes are one vote.
        votes: per prompt; five in RIP (arXiv 2501.18578, appendix A.5).
    """
    return [
        request
        for prompt in prompts
        for request in requests_about(prompt, BINARY_TEMPLATE, votes=votes, seeds=seeds, sampling=sampling, stop=STOP)
    ]


def pointwise_requests(
    prompts: Sequence[str], seeds: SeedTree, sampling: Sampling, *, votes: int = VOTES
) -> list[Request]:
    """`votes` requests per prompt how useful it is from 0 to 5; `pointwise_scores` reads the replies.

    Arguments are those of `binary_requests`.
    """
    return [
        request
        for prompt in prompts
        for request in requests_about(
            prompt, POINTWISE_TEMPLATE, votes=votes, seeds=seeds, sampling=sampling, stop=STOP
        )
    ]


def binary_scores(replies: Sequence[Completion | Failure], *, votes: int = VOTES) -> NDArray[np.float64]:
    """Share of each prompt's readable votes that say it is useful, in [0, 1], shape (prompts,).

    Args:
        replies: to `binary_requests`, in their order, shape (prompts × votes,).
        votes: per prompt, as they were asked for.

    Returns:
        NaN for a prompt none of whose votes can be read; a failure or an unreadable vote counts neither way.
    """
    return _means(replies, parse_binary, votes)


def pointwise_scores(replies: Sequence[Completion | Failure], *, votes: int = VOTES) -> NDArray[np.float64]:
    """Mean of each prompt's readable votes from 0 to 5, shape (prompts,); arguments as in `binary_scores`."""
    return _means(replies, parse_pointwise, votes)


def parse_binary(text: str) -> bool | None:
    """The vote in a reply: what stands after "Verdict", or alone on the last line; None where that is both or none."""
    opinions = list(_VERDICTS.finditer(text)) or list(_ONLY_OPINION.finditer(text))
    return _agreed({opinion["for"] is not None for opinion in opinions})


def parse_pointwise(text: str) -> float | None:
    """The vote in a reply: the number after "Score" or "Rating", or a last line that is a number.

    None where there is none or more than one, where it is outside 0 to 5, or out of anything but 5.
    """
    numbers = list(_SCORES.finditer(text)) or list(_ONLY_NUMBER.finditer(text))
    vote = _agreed({(float(number["value"]), int(number["scale"] or HIGHEST)) for number in numbers})
    return vote[0] if vote is not None and vote[0] <= HIGHEST == vote[1] else None


def _agreed(found: set[Vote]) -> Vote | None:
    """The only thing found; a reply that contradicts itself is no vote."""
    return next(iter(found)) if len(found) == 1 else None


def _means(
    replies: Sequence[Completion | Failure], parse: Callable[[str], float | None], votes: int
) -> NDArray[np.float64]:
    if len(replies) % votes:
        raise ValueError(f"{len(replies)} replies are no multiple of {votes} votes")
    read = [parse(reply.text) if isinstance(reply, Completion) else None for reply in replies]
    table = np.array([np.nan if vote is None else vote for vote in read], dtype=np.float64).reshape(-1, votes)
    there = np.isfinite(table)
    means = np.full(len(table), np.nan)
    np.divide(np.where(there, table, 0.0).sum(axis=1), there.sum(axis=1), out=means, where=there.any(axis=1))
    return means
