"""Provides the engine `openai`: any OpenAI-compatible endpoint (vLLM, SGLang, llama-server, hosted services)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.openai_format import completions_of, one_line, path_and_body
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.records import Completion, Failure, Message, Request, Sampling

ONE_TOKEN = Request("judge", Sampling(max_tokens=1), seed=0, messages=(Message("user", "Say hello."),))


class OpenAI:
    """Asks a model behind one or several servers; a request is sent until it is answered or refused for good.

    The fingerprint is the model's name alone, so that a run can go on with the same model on other servers. Only the
    user can know whether they serve the same weights under that name.

    Args:
        base_url: the address of each server, up to and including `/v1`.
        model: the name that the servers know the model by.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before the engine counts as lost.

    Raises:
        FittestError: the key is not set, or aiohttp is not installed.
    """

    def __init__(
        self,
        *,
        base_url: Sequence[str],
        model: str,
        api_key_env: str | None = None,
        slots: int = 16,
        timeout: float = 600.0,
        patience: float = 300.0,
    ) -> None:
        self.fingerprint = f"openai:{model}"
        self.slots = slots
        self._model = model
        self._endpoint = Endpoint(
            section="engine",
            base_url=base_url,
            api_key_env=api_key_env,
            slots=slots,
            timeout=timeout,
            patience=patience,
            items="choices",
            probe=path_and_body(ONE_TOKEN, model),
            hint=f"does engine.base_url end in /v1, and is engine.model = {model!r} there?",
        )

    async def __aenter__(self) -> Self:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._endpoint.__aexit__(*exc)

    async def sample(self, request: Request) -> Completion:
        """Answers one request.

        Args:
            request: the request.

        Raises:
            RequestFailedError: the server refused it for good.
        """
        (reply,) = await self.sample_together([request])
        if isinstance(reply, Failure):
            raise RequestFailedError(reply.reason)
        return reply

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Answers requests that differ in sample and seed alone, as the choices of one request.

        Args:
            requests: the requests; the seed of the first counts for all.

        Raises:
            FittestError: a server gave fewer choices than it was asked for.
        """
        path, body = path_and_body(requests[0], self._model, len(requests))
        replies = await self._endpoint.ask(path, body, completions_of)
        if len(replies) < len(requests):
            raise FittestError(
                f"engine.base_url: a server gives {len(replies)} of {len(requests)} samples asked for in one"
                " request; set engine.samples_per_request = 1"
            )
        # some servers give more choices than were asked for
        return [self._without_key(reply) for reply in replies[: len(requests)]]

    def _without_key(self, reply: Completion | Failure) -> Completion | Failure:
        if isinstance(reply, Failure):
            return Failure(one_line(self._endpoint.hidden(reply.reason)))
        text = self._endpoint.hidden(reply.text)
        return reply if text == reply.text else replace(reply, text=text)

    @property
    def trouble(self) -> str | None:
        """Returns what the servers say while all of them are out of order; None while one of them works."""
        return self._endpoint.trouble

    async def try_out(self, requests: Sequence[Request] = ()) -> list[str]:
        """Asks each server for one token.

        Args:
            requests: what it will be asked later.

        Raises:
            FittestError: a server gave none; the error names it and says what it said.
        """
        await self._endpoint.try_out("token", lambda reply: reply)
        return []
