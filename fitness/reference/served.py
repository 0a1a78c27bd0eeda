"""Asks a server for log-probabilities of answers: vLLM, and what speaks its extension `prompt_logprobs`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fittest.evo.errors import FittestError, RequestFailedError, first_error
from fittest.evo.records import Message
from fittest.fitness.reference.pairs import AnsweredPair, PairLogProbabilities, shared_beginning

if TYPE_CHECKING:
    from fittest.evo.backends.endpoint import Endpoint

_MOST_DIGITS = 18
_FINITE = 1e300
_TRIED_FIRST = AnsweredPair((Message("user", "Say hello."),), "Hello.", "Goodbye.")


class _Read(NamedTuple):
    """Holds the tokens of a chat as the server reads it, and the log-probability of each; the first has none."""

    tokens: list[int]
    logprobs: list[float]


class ServedReference:
    """Sends each chat with its answer, and the chat alone to see where an answer begins: three requests for a pair.

    The server sets the chat template. It writes one token more, which is thrown away.

    Args:
        endpoint: the servers.
        model: the name that the servers know the model by.
        extra: more keys of a request, such as `chat_template_kwargs`.
    """

    def __init__(self, endpoint: Endpoint, model: str, extra: Mapping[str, Any] | None = None) -> None:
        self._endpoint = endpoint
        self._model = model
        self._extra = dict(extra or {})
        self._tried = False

    @property
    def fingerprint(self) -> str:
        """Joins the model's name, which is all that is known of it, and the extra keys."""
        extra = json.dumps(self._extra, sort_keys=True) if self._extra else ""
        return f"reference:openai:{self._model}{extra}"

    def log_probabilities(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        """Returns the log-probabilities of each pair; None if the server refuses one of its chats, as too long.

        Args:
            pairs: the chats with their answers.

        Raises:
            FittestError: the servers cannot be reached, or give no log-probabilities of a given text.
        """
        return asyncio.run(self._of_all(pairs))

    async def _of_all(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        async with self._endpoint:
            if not self._tried:
                try:
                    await self._of(_TRIED_FIRST)
                except RequestFailedError as error:
                    raise FittestError(
                        f"the engine 'openai' gives no log-probabilities of given answers: {error}"
                    ) from None
                self._tried = True
            try:
                # the endpoint limits the requests in flight
                async with asyncio.TaskGroup() as tasks:
                    asked = [tasks.create_task(self._or_none(pair)) for pair in pairs]
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        return [task.result() for task in asked]

    async def _or_none(self, pair: AnsweredPair) -> PairLogProbabilities | None:
        try:
            return await self._of(pair)
        except RequestFailedError:
            return None

    async def _of(self, pair: AnsweredPair) -> PairLogProbabilities:
        opening = await self._read(pair.messages, opened=True)
        chosen = await self._read((*pair.messages, Message("assistant", pair.chosen)), opened=False)
        rejected = await self._read((*pair.messages, Message("assistant", pair.rejected)), opened=False)
        begun = min(shared_beginning(opening.tokens, answer.tokens) for answer in (chosen, rejected))
        # of the first token no number is given, and its place holds 0
        return PairLogProbabilities(*(math.fsum(answer.logprobs[begun:]) for answer in (chosen, rejected)))

    async def _read(self, messages: Sequence[Message], *, opened: bool) -> _Read:
        body = {
            **self._extra,
            "model": self._model,
            "messages": [message._asdict() for message in messages],
            "add_generation_prompt": opened,
            "temperature": 0.0,
            "max_tokens": 1,
            # 0 alternatives at each place: the log-probability of the token itself alone
            "prompt_logprobs": 0,
        }
        return await self._endpoint.ask("/chat/completions", json.dumps(body).encode(), _read_of)


def _read_of(reply: Mapping[str, Any]) -> _Read:
    """Reads the tokens and their log-probabilities from a reply of vLLM."""
    given = reply.get("prompt_logprobs")
    if not isinstance(given, list) or not given:
        raise RequestFailedError("the reply has no prompt_logprobs; vLLM's server gives them")
    tokens, logprobs = [-1], [0.0]
    for place in given[1:]:
        if not isinstance(place, dict) or len(place) != 1:
            raise RequestFailedError("prompt_logprobs has more than one token at a place, though none was asked for")
        ((token, found),) = place.items()
        logprob = found.get("logprob") if isinstance(found, dict) else None
        if not isinstance(logprob, (int, float)) or not -_FINITE < logprob < _FINITE:
            raise RequestFailedError("prompt_logprobs has no number at a place")
        if not token.isdecimal() or len(token) > _MOST_DIGITS:
            raise RequestFailedError("prompt_logprobs has something else than a token at a place")
        tokens.append(int(token))
        logprobs.append(float(logprob))
    return _Read(tokens, logprobs)
