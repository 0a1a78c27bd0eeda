"""Provides the engine `openai`: any OpenAI-compatible endpoint (vLLM, SGLang, llama-server, hosted services)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, Self

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.endpoint_trials import try_out
from fittest.evo.backends.openai_dialect import Dialect, prefill_of, short
from fittest.evo.backends.openai_format import completions_of, longest_text, one_line
from fittest.evo.backends.openai_forms import FormTrials
from fittest.evo.backends.openai_remedies import Remedies
from fittest.evo.errors import RequestFailedError, first_error
from fittest.evo.records import ROLES, Completion, Failure, Form, Message, Request, Sampling

ONE_TOKEN = Request("judge", Sampling(max_tokens=1), seed=0, messages=(Message("user", "Say hello."),))
_ALONE_IN_A_ROW = 2


class OpenAI:
    """Asks a model behind one or several servers; a request is sent until it is answered or refused for good.

    The fingerprint is the model's name, so that a run can go on with the same model on other servers, with a hash of
    what else changes replies, if there is any. Only the user can know whether they serve the same weights under that
    name.

    Args:
        base_url: the address of each server, up to and including `/v1`.
        model: the name that the servers know the model by.
        section: the table of run.toml that errors name.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        headers_env: headers that are sent with each request, and the environment variables that hold their values.
        extra_query: parameters that are added to each address.
        extra_body: keys that are added to the body of each request.
        omit: parameters that are not sent. Without "n", samples are asked for one by one; without "stop", replies are
            cut here.
        token_limit: the name under which the limit on completion tokens is sent.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before the engine counts as lost.
        max_reply_mib: the largest reply that is read, in MiB.

    Raises:
        FittestError: the key or a header is not set, or aiohttp is not installed.
    """

    def __init__(
        self,
        *,
        base_url: Sequence[str],
        model: str,
        section: str = "engine",
        api_key_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        omit: Sequence[str] = (),
        token_limit: str = "max_tokens",
        slots: int = 16,
        timeout: float = 600.0,
        patience: float = 300.0,
        max_reply_mib: int = 16,
    ) -> None:
        self._dialect = Dialect.of(model, extra_body or {}, omit, token_limit)
        self.fingerprint = self._dialect.fingerprint
        self.slots = slots
        remedies = Remedies(section, model, extra_body=extra_body or {}, omit=omit, token_limit=token_limit)
        self._endpoint = Endpoint(
            section=section,
            base_url=base_url,
            api_key_env=api_key_env,
            slots=slots,
            timeout=timeout,
            patience=patience,
            items="choices",
            probe=self._dialect.path_and_body(ONE_TOKEN),
            hint=remedies.address,
            headers_env=headers_env,
            extra_query=extra_query,
            remedy=remedies.for_refusal,
            max_reply_mib=max_reply_mib,
        )
        self._forms = FormTrials(self._endpoint, patience=patience)
        # whether each sample has to be asked for alone
        self._one_by_one = "n" in omit
        self._alone_in_a_row = 0

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
        (reply,) = await self._choices([request])
        if isinstance(reply, Failure):
            raise RequestFailedError(reply.reason)
        return reply

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Answers requests that differ in sample and seed alone, as the choices of one request.

        What a server leaves out is asked for once more in one request, and then one by one.

        Args:
            requests: the requests; the seed of the first counts for all that are asked for together.
        """
        if self._one_by_one:
            return await self._each(requests)
        replies = await self._choices(requests)
        first, rest = len(replies), requests[len(replies) :]
        if rest:
            try:
                replies += await self._choices(rest)
            except RequestFailedError as error:
                reason = f"a server gave {first} of {len(requests)} samples, and none of the rest: {error}"
                return replies + [Failure(one_line(reason))] * len(rest)
        return replies + await self._each(requests[len(replies) :])

    async def _each(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Asks for samples at once, each in a request of its own; a failure of one is no failure of the others."""

        async def alone(request: Request) -> Completion | Failure:
            try:
                return await self.sample(request)
            except RequestFailedError as error:
                return Failure(str(error))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(alone(request)) for request in requests]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        return [task.result() for task in tasks]

    async def _choices(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Asks for samples in one request, and returns as many as the server gives, which is at least one."""
        dialect = replace(self._dialect, continuation=self._forms.continuation)
        path, body = dialect.path_and_body(requests[0], len(requests))
        role, subject = ROLES[requests[0].stage], requests[0].subject
        limit = None if "max_tokens" in self._dialect.omit else requests[0].sampling.max_tokens
        replies = await self._endpoint.ask(
            path,
            body,
            partial(completions_of, most=len(requests), longest=longest_text(limit)),
            role=role,
            subject=subject,
            samples=len(requests),
            refusal_in=_refusal_in,
        )
        if len(requests) > 1:
            self._alone_in_a_row = self._alone_in_a_row + 1 if len(replies) == 1 else 0
            # such a server gives one choice whatever is asked for, and asking it twice for the rest would take longer
            self._one_by_one |= self._alone_in_a_row >= _ALONE_IN_A_ROW
        return [self._finished(reply, requests[0]) for reply in replies]

    def best_next(self, waiting: Iterable[Sequence[Request]], room: float) -> Sequence[int]:
        """Returns the positions of the requests that should go now, because the server that has read them has room.

        Args:
            waiting: the requests that wait for a slot, in their order; those that go together are one item.
            room: how many requests may go.
        """
        return self._endpoint.servers.best_next(((some[0].subject, len(some)) for some in waiting), room)

    def _finished(self, reply: Completion | Failure, request: Request) -> Completion | Failure:
        """Returns a reply as the request wants it: without the key, the beginning that it gave, and what follows."""
        if isinstance(reply, Failure):
            return Failure(one_line(self._endpoint.hidden(reply.reason)))
        text = self._endpoint.hidden(reply.text)
        # llama-server repeats the beginning that it continues, and vLLM does not
        text = text.removeprefix(prefill_of(request))
        reasoning = reply.reasoning and self._endpoint.hidden(reply.reasoning)
        if "stop" in self._dialect.omit:
            ends = [at for stop in request.sampling.stop if (at := text.find(stop)) >= 0]
            if ends:
                return replace(reply, text=text[: min(ends)], finish_reason="stop", reasoning=reasoning)
        same = text == reply.text and reasoning == reply.reasoning
        return reply if same else replace(reply, text=text, reasoning=reasoning)

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
        """Sends each server one short request for each role, and returns what a user should know all the same.

        Args:
            requests: an example of what the engine will be asked in each of its roles; neighbours that differ in
                sample alone are one request. Without any, it is asked for one answer.
        """
        if any(map(prefill_of, requests)):
            await self._forms.learn_to_continue(self._dialect)
        dialect = replace(self._dialect, continuation=self._forms.continuation)
        trials = [
            (ROLES[request.stage], *dialect.path_and_body(short(request), len(list(samples))))
            for request, samples in groupby(requests or [ONE_TOKEN], key=lambda request: replace(request, sample=0))
        ]
        return await try_out(self._endpoint, "token", completions_of, trials)

    async def proposal_form(self, wanted: Sequence[Form]) -> tuple[Form, str]:
        """Returns the first of the wanted forms that all its servers serve, and how that was found, in words.

        Args:
            wanted: forms, the best first.
        """
        return await self._forms.choose(wanted, self._dialect)


def _refusal_in(replies: Sequence[Completion | Failure]) -> str | None:
    """Returns why a reply has no text in any of its choices; None if it has one."""
    reasons = [reply.reason for reply in replies if isinstance(reply, Failure)]
    return one_line(reasons[-1]) if len(reasons) == len(replies) else None
