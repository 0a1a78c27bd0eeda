"""The feeder: one stream of requests that keeps every slot of the engine busy, with each reply journalled first."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from evo.errors import RequestFailedError
from evo.keys import request_key
from evo.records import Completion, Failure, Request, Stage

if TYPE_CHECKING:
    from evo.protocols import Backend, Journal

Reply = Completion | Failure

STAGES: tuple[Stage, ...] = ("proposal", "judge", "rollout")
"""Proposals go first: no rollouts before a prompt is written. Judgments go next: they finish what is begun."""


class StopRun(Exception):  # noqa: N818 - an order, not an error
    """The run was told to stop; everything in flight has been kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Budget:
    """Caps on one run; 0 is no cap. Tokens count prompts and completions, seconds count all sessions."""

    max_tokens: int = 0
    max_seconds: float = 0.0

    def spent(self, tokens: int, seconds: float) -> str | None:
        """The cap that has been reached, if any."""
        if self.max_tokens and tokens >= self.max_tokens:
            return "max_tokens"
        if self.max_seconds and seconds >= self.max_seconds:
            return "max_seconds"
        return None


@dataclass(slots=True)
class Traffic:
    """What went through the feeder; `fresh` leaves out the replies that came from the journal."""

    replies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    fresh_replies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fresh_completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def count(self, request: Request, reply: Reply, *, fresh: bool) -> None:
        """Add one reply."""
        self.replies[request.stage] += 1
        self.fresh_replies[request.stage] += fresh
        if isinstance(reply, Completion):
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
            self.fresh_completion_tokens += reply.completion_tokens if fresh else 0


@dataclass(slots=True)
class _Waiting:
    key: str
    request: Request
    answer: asyncio.Future[Reply]


class Feeder:
    """Sends requests as slots fall free, and hands out each reply once it is safe in the journal.

    One task owns the queue: it commits whatever has arrived in one transaction, answers the waiting callers, and
    logs and sends as many requests as there are free slots, so the cost of a commit is shared.

    Args:
        backend: the engine; entered and left together with the feeder.
        journal: where replies are kept and looked up.
        budget: caps, checked before a request is sent.
        seconds_before: wall time that earlier sessions of the same run took.
        drain_seconds: how long a stop waits for what is in flight.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        *,
        budget: Budget | None = None,
        seconds_before: float = 0.0,
        drain_seconds: float = 10.0,
    ) -> None:
        self.backend = backend
        self.traffic = Traffic()
        self.in_flight = 0
        self._journal = journal
        self._budget = budget or Budget()
        self._started = time.monotonic() - seconds_before
        self._drain_seconds = drain_seconds
        self._queues: dict[str, deque[_Waiting]] = {stage: deque() for stage in STAGES}
        self._arrived: list[tuple[_Waiting, Reply]] = []
        self._wake = asyncio.Event()
        self._stop_reason: str | None = None
        self._stop_by = 0.0
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self.backend.__aenter__()
        await self._tasks.__aenter__()
        self._owner = self._tasks.create_task(self._own())
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            self._owner.cancel()
            if isinstance(exc[1], Exception):
                await self._drain()
            await self._tasks.__aexit__(*exc)  # type: ignore[arg-type]
        finally:
            self._keep_arrived()
            await self.backend.__aexit__(*exc)

    async def _drain(self) -> None:
        """Let what is in flight arrive, when the run ends by somebody else's error."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self.in_flight:
                    self._wake.clear()
                    await self._wake.wait()

    def _keep_arrived(self) -> None:
        """Journal the replies that nobody waits for any more."""
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._journal.exchange([(waiting.key, waiting.request.sample, reply) for waiting, reply in arrived], [])

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def seconds(self) -> float:
        """Wall time of this run so far, all sessions together."""
        return time.monotonic() - self._started

    def stop(self, reason: str) -> None:
        """Send nothing more; raise `StopRun` when what is in flight has been kept, or after the drain time."""
        self._stop_reason = self._stop_reason or reason
        self._stop_by = time.monotonic() + self._drain_seconds
        self._wake.set()

    async def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests; those in the journal come from there."""
        answers = [self._ask(request) for request in requests]
        return [await answer if isinstance(answer, asyncio.Future) else answer for answer in answers]

    def _ask(self, request: Request) -> Reply | asyncio.Future[Reply]:
        key = request_key(self.backend.fingerprint, request)
        known = self._journal.reply(key, request.sample)
        if known is not None:
            self.traffic.count(request, known, fresh=False)
            return known
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queues[request.stage].append(_Waiting(key, request, answer))
        self._wake.set()
        return answer

    async def _own(self) -> None:
        while True:
            try:
                timeout = self._stop_by - time.monotonic() if self._stop_reason else None
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                raise StopRun(str(self._stop_reason)) from None
            self._wake.clear()
            self._exchange()

    def _exchange(self) -> None:
        """Journal what has arrived and what is sent next; then answer whoever waits, and send."""
        arrived, self._arrived = self._arrived, []
        for waiting, reply in arrived:
            self.traffic.count(waiting.request, reply, fresh=True)
        sent = self._next_to_send()
        if arrived or sent:
            self._journal.exchange(
                [(waiting.key, waiting.request.sample, reply) for waiting, reply in arrived],
                [(waiting.key, waiting.request) for waiting in sent],
            )
        for waiting, reply in arrived:
            if not waiting.answer.done():
                waiting.answer.set_result(reply)
        for waiting in sent:
            self._tasks.create_task(self._serve(waiting))
        if self._stop_reason is not None and self.in_flight == 0:
            raise StopRun(self._stop_reason)

    def _next_to_send(self) -> list[_Waiting]:
        """As many requests as there are free slots, none once the run is to stop."""
        if self.queued and self._stop_reason is None:
            cap = self._budget.spent(self.traffic.tokens, self.seconds)
            if cap:
                self.stop(cap)
        if self._stop_reason is not None:
            return []
        sent = []
        for queue in self._queues.values():
            while queue and self.in_flight < self.backend.slots:
                sent.append(queue.popleft())
                self.in_flight += 1
        return sent

    async def _serve(self, waiting: _Waiting) -> None:
        reply: Reply
        try:
            reply = await self.backend.sample(waiting.request)
        except RequestFailedError as error:
            reply = Failure(str(error))
        self.in_flight -= 1
        self._arrived.append((waiting, reply))
        self._wake.set()
