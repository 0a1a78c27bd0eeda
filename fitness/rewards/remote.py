"""Has pairs scored by servers: several requests at once, several pairs in each where the servers take them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.endpoint_trials import try_out
from fittest.evo.errors import FittestError, RequestFailedError, first_error
from fittest.evo.records import Missing, Request

Pair = tuple[str, str]
"""A prompt and a response to it."""

Score = float | Missing | None
"""A reward as a server gives it: None where it gives none, and perhaps NaN or an infinity."""

_EXAMPLE: Pair = ("Say hello.", "Hello.")
_ROLE = "reward"
_REFUSED_IN_A_ROW = 20


@dataclass(frozen=True)
class PairForm:
    """Says how pairs become a request, and a reply becomes rewards.

    Attributes:
        path: the path on the server.
        items: the key of a reply that holds one item for each pair.
        item: the type of these items.
        write: makes the body of a request for some pairs.
        read: returns the rewards of a reply, given how many were asked for. It raises Trouble where another try may
            help, and FittestError where no other request would succeed either.
        batch: the most pairs of one request.
    """

    path: str
    items: str
    item: type
    write: Callable[[Sequence[Pair]], bytes]
    read: Callable[[Mapping[str, Any], int], Sequence[Score]]
    batch: int

    @property
    def probe(self) -> tuple[str, bytes]:
        """Returns path and body of the smallest request."""
        return self.path, self.write([_EXAMPLE])


class RemoteReward:
    """Gives the rewards of servers.

    Where the servers refuse several pairs at once, these are halved and asked for again: one pair that is too long
    must not cost the others their rewards. A pair that is refused alone is missing, for the reason that was given.
    If this happens to all pairs of many calls in a row, the run ends, since the servers must be out of order.

    Args:
        fingerprint: identifies what scores, wherever the servers are.
        endpoint: the servers.
        form: how they are asked.
    """

    quick = False

    def __init__(self, fingerprint: str, endpoint: Endpoint, form: PairForm) -> None:
        self.fingerprint = fingerprint
        self._endpoint = endpoint
        self._form = form
        self._refused = 0

    async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Score]:
        """Returns rewards in the order of the responses."""
        pairs = list(zip(prompts, responses, strict=True))
        batches = [pairs[start : start + self._form.batch] for start in range(0, len(pairs), self._form.batch)]
        # open while any response is scored, so that nobody has to close it at the end of a run
        async with self._endpoint:
            scores = await self._scores_of(batches)
        self._count_refusals(scores)
        return scores

    @property
    def waits(self) -> str | None:
        """Says how many requests wait for which servers, and for how long; None while servers take them."""
        return self._endpoint.waits

    @property
    def notes(self) -> list[str]:
        """Returns what a user should know of the servers afterwards."""
        return self._endpoint.notes

    @property
    def trouble(self) -> str | None:
        """Returns what the servers say while all of them are out of order; None while one of them works."""
        return self._endpoint.trouble

    async def try_out(self, requests: Sequence[Request] = ()) -> list[str]:
        """Lets each server score one pair.

        Args:
            requests: not used, since pairs are no requests to an engine.

        Returns:
            What a user should know although the servers answer.

        Raises:
            FittestError: a server gave no reply that can be read; the error names it and says what it said.
        """
        found: list[Score] = []
        warnings = await try_out(
            self._endpoint,
            "score",
            lambda reply: found.extend(self._form.read(reply, 1)),
            [(_ROLE, *self._form.probe)],
        )
        if all(isinstance(score, float) and math.isfinite(score) for score in found):
            return warnings
        prompt, response = _EXAMPLE
        return [*warnings, f"reward: the servers give no number for the response {response!r} to {prompt!r}"]

    def _count_refusals(self, scores: Sequence[Score]) -> None:
        # calls and not pairs are counted: a prompt that is too long costs all its responses their rewards at once
        refusals = [score for score in scores if isinstance(score, Missing)]
        if len(refusals) < len(scores):
            self._refused = 0
        elif refusals:
            self._refused += 1
            if self._refused >= _REFUSED_IN_A_ROW:
                raise FittestError(
                    f"reward: {self._refused} prompts in a row got no reward for any response, the last one because:"
                    f" {refusals[-1].reason}"
                )

    async def _scores_of(self, batches: Sequence[Sequence[Pair]]) -> list[Score]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._scored(batch)) for batch in batches]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        return [score for task in tasks for score in task.result()]

    async def _scored(self, pairs: Sequence[Pair]) -> Sequence[Score]:
        form = self._form
        try:
            return await self._endpoint.ask(
                form.path, form.write(pairs), lambda reply: form.read(reply, len(pairs)), role=_ROLE
            )
        except RequestFailedError as error:
            if len(pairs) == 1:
                return [Missing(str(error))]
        middle = len(pairs) // 2
        return await self._scores_of([pairs[:middle], pairs[middle:]])


def numbers_in(values: object) -> list[float | None] | None:
    """Returns a list of numbers and nulls as floats and None; anything else gives None.

    Args:
        values: a part of a reply; true and false are no numbers, and neither is a text that holds one.
    """
    if not isinstance(values, list):
        return None
    if any(isinstance(value, bool) or not isinstance(value, (int, float, type(None))) for value in values):
        return None
    return [None if value is None else _float_of(value) for value in values]


def _float_of(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        # JSON knows integers of any size; the evaluator calls this one infinite
        return math.inf
