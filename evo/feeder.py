"""Feeds the engine: one stream of requests keeps every slot busy, and each reply is journalled before it is used."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Self

from fittest.evo.errors import RequestFailedError
from fittest.evo.keys import request_key
from fittest.evo.protocols import SamplesTogether
from fittest.evo.records import Completion, Failure, Request, Stage
from fittest.evo.spending import Budget, Ledger, account

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend, Journal

_Reply = Completion | Failure
_Identified = tuple[tuple[str, int], Request]

_STAGES: tuple[Stage, ...] = ("proposal", "rollout", "reference", "judge")
"""Requests are sent in this order of stages (docs/design/feeding.md).

Proposals go first, because a prompt has to be written before it can be answered. Judgments go last, because they are
short and can fill the slots that fall free while the longest answers are still being written.
"""


class EndRun(Exception):  # noqa: N818 - an order, not an error
    """Ends the run for a reason that is no error; every reply that has arrived is kept.

    Args:
        reason: the cap that was reached, or why the run was interrupted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Waiting:
    """Holds the requests that go to the engine together, which is mostly one.

    `identities` holds the journal key and sample of each. `ledger` is charged with what they cost.
    """

    identities: list[tuple[str, int]]
    requests: list[Request]
    answer: asyncio.Future[list[_Reply]]
    ledger: Ledger | None


class Feeder:
    """Sends requests as slots fall free, and hands out each reply once it is safe in the journal.

    One task owns the queue. It commits the replies that have arrived in one transaction, answers the waiting callers,
    and logs and sends as many requests as there are free slots. The cost of a commit is thus shared.

    Args:
        backend: the engine; it is entered and left together with the feeder.
        journal: keeps replies, and is asked for those of earlier sessions.
        budget: the caps, which are checked before a request is sent.
        seconds_before: the wall time that earlier sessions of the same run took.
        drain_seconds: how long an interruption, or an error elsewhere, waits for the requests in flight.
        together: how many samples of one prompt go into one request, if the engine can do this; each takes a slot.

    Attributes:
        traffic: all replies that were asked for, each counted once, including those from the journal.
        fresh: the replies of this session's engine.
    """

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        *,
        budget: Budget | None = None,
        seconds_before: float = 0.0,
        drain_seconds: float = 10.0,
        together: int = 1,
    ) -> None:
        self.backend = backend
        self.traffic = Ledger()
        self.fresh = Ledger()
        self.in_flight = 0
        self._journal = journal
        self._budget = budget or Budget()
        self._started = time.monotonic() - seconds_before
        self._drain_seconds = drain_seconds
        most_together = min(together, backend.slots) if isinstance(backend, SamplesTogether) else 1
        # a group that is larger than the cap on requests could never be sent
        self._together = self._budget.in_flight(most_together, answered=0)
        # what earlier sessions were answered counts from the start, whether or not it has been asked for again
        self._spent_before = journal.spent()
        self._counted: set[tuple[str, int]] = set()
        self._pending: dict[tuple[str, int], tuple[asyncio.Future[list[_Reply]], int]] = {}
        self._queues: dict[str, deque[_Waiting]] = {stage: deque() for stage in _STAGES}
        self._arrived: list[tuple[_Waiting, Sequence[_Reply]]] = []
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._end_reason: str | None = None
        self._end_by = math.inf
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
            self._journal_arrived([])
            await self.backend.__aexit__(*exc)

    async def _drain(self) -> None:
        """Waits for the requests in flight when an error elsewhere ends the run: they are paid for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self.in_flight:
                    self._wake.clear()
                    await self._wake.wait()

    @property
    def queued(self) -> int:
        """Returns the number of requests that wait for a slot."""
        return sum(len(waiting.requests) for queue in self._queues.values() for waiting in queue)

    @property
    def ending(self) -> str | None:
        """Returns the reason why nothing more is sent; None while requests are sent."""
        return self._end_reason

    @property
    def seconds(self) -> float:
        """Returns the wall time of this run so far in seconds, all sessions together."""
        return time.monotonic() - self._started

    async def hungry(self) -> None:
        """Waits until fewer requests wait for a slot than there are slots."""
        while self.queued >= self.backend.slots:
            self._sent.clear()
            await self._sent.wait()

    def end(self, reason: str, *, within: float = math.inf) -> None:
        """Sends nothing more, and raises `EndRun` when all requests in flight are answered, or after `within` seconds.

        Args:
            reason: the reason, of which the first one counts.
            within: how long to wait for the requests in flight.
        """
        self._end_reason = self._end_reason or reason
        self._end_by = min(self._end_by, time.monotonic() + within)
        self._wake.set()

    def interrupt(self) -> None:
        """Ends the run for a user who waits: requests that are not answered after `drain_seconds` are given up."""
        self.end("interrupted", within=self._drain_seconds)

    async def ask_all(self, requests: Sequence[Request]) -> list[_Reply]:
        """Returns replies in the order of the requests; known replies come from the journal, and none is asked twice.

        Args:
            requests: the requests; equal ones get the same reply.
        """
        ledger = account()
        known: dict[tuple[str, int], _Reply] = {}
        unknown: dict[tuple[str, int], Request] = {}
        identities = [(request_key(self.backend.fingerprint, request), request.sample) for request in requests]
        for identity, request in zip(identities, requests, strict=True):
            if identity in self._pending or identity in unknown or identity in known:
                continue
            # a journal that was empty in the beginning holds what was counted since, and nothing else
            may_be_kept = self._spent_before.requests or identity in self._counted
            reply = self._journal.reply(*identity) if may_be_kept else None
            if reply is None:
                unknown[identity] = request
            else:
                known[identity] = reply
                self._count(identity, request, reply, ledger)
        for group in self._grouped(list(unknown.items())):
            self._queue(group, ledger)
        waiting = {identity: self._pending[identity] for identity in identities if identity not in known}
        for identity, (answer, place) in waiting.items():
            known[identity] = (await answer)[place]
        return [known[identity] for identity in identities]

    def _grouped(self, unknown: Sequence[_Identified]) -> Iterator[Sequence[_Identified]]:
        """Groups what goes to the engine together: neighbours that differ in sample and seed alone."""
        if self._together == 1:
            yield from ([one] for one in unknown)
            return
        for _, same in groupby(unknown, key=lambda one: replace(one[1], sample=0, seed=0)):
            group = list(same)
            yield from (group[start : start + self._together] for start in range(0, len(group), self._together))

    def _queue(self, group: Sequence[_Identified], ledger: Ledger | None) -> None:
        answer: asyncio.Future[list[_Reply]] = asyncio.get_running_loop().create_future()
        for place, (identity, _) in enumerate(group):
            self._pending[identity] = (answer, place)
        identities, requests = [identity for identity, _ in group], [request for _, request in group]
        self._queues[requests[0].stage].append(_Waiting(identities, requests, answer, ledger))
        self._wake.set()

    def _count(self, identity: tuple[str, int], request: Request, reply: _Reply, ledger: Ledger | None) -> None:
        """Charges a reply to its ledger the first time that it is handed out."""
        if identity in self._counted:
            return
        self._counted.add(identity)
        self.traffic[request.stage].count(reply)
        if ledger is not None:
            ledger[request.stage].count(reply)

    async def _own(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience())
            self._wake.clear()
            self._exchange()

    def _patience(self) -> float | None:
        """Returns the seconds until something has to be done although nothing arrives; None means never."""
        due = self._end_by - time.monotonic() if self._end_reason else self._budget.seconds_left(self.seconds)
        return max(0.0, due) if math.isfinite(due) else None

    def _exchange(self) -> None:
        """Journals the replies that have arrived and the requests that go next; then answers the callers, and sends.

        The journal comes first, so that a reply which anybody has seen is on disk.
        """
        for waiting, replies in self._arrived:
            for identity, request, reply in zip(waiting.identities, waiting.requests, replies, strict=True):
                self._count(identity, request, reply, waiting.ledger)
                self.fresh[request.stage].count(reply)
        sent = self._next_to_send()
        for waiting, replies in self._journal_arrived(sent):
            for identity in waiting.identities:
                del self._pending[identity]
            if not waiting.answer.done():
                waiting.answer.set_result(list(replies))
        for waiting in sent:
            self._tasks.create_task(self._serve(waiting))
        self._sent.set()
        if self._end_reason is not None and (self.in_flight == 0 or time.monotonic() >= self._end_by):
            raise EndRun(self._end_reason)

    def _journal_arrived(self, sent: Sequence[_Waiting]) -> list[tuple[_Waiting, Sequence[_Reply]]]:
        """Journals the replies that have arrived, and logs the requests that are about to be sent."""
        arrived = self._arrived
        if arrived or sent:
            self._journal.exchange(
                [
                    (*identity, reply)
                    for waiting, replies in arrived
                    for identity, reply in zip(waiting.identities, replies, strict=True)
                ],
                [
                    (key, request)
                    for waiting in sent
                    for (key, _), request in zip(waiting.identities, waiting.requests, strict=True)
                ],
            )
        # cleared only now: replies that could not be written are tried again when the feeder is left
        self._arrived = []
        return arrived

    def _next_to_send(self) -> list[_Waiting]:
        """Takes as many requests as there are free slots, or none once the run is to end."""
        spent = self._spent_before + self.fresh.total
        if self._end_reason is None and (self.in_flight or any(self._queues.values())):
            cap = self._budget.reached(spent, self.seconds)
            if cap:
                self.end(cap)
        if self._end_reason is not None:
            return []
        sent = []
        limit = self._budget.in_flight(self.backend.slots, spent.requests)
        for queue in self._queues.values():
            while queue and self.in_flight + len(queue[0].requests) <= limit:
                sent.append(queue.popleft())
                self.in_flight += len(sent[-1].requests)
            if queue:  # its head needs more slots than are free; were later stages let by, it might wait for ever
                break
        if self.in_flight == 0 and any(self._queues.values()):
            self.end("max_requests")
        return sent

    async def _serve(self, waiting: _Waiting) -> None:
        began = time.monotonic()
        replies: Sequence[_Reply]
        try:
            replies = await self._answered(waiting.requests)
        except RequestFailedError as error:
            replies = [Failure(str(error))] * len(waiting.requests)
        except Exception:
            if not self._owner.cancelling():
                raise
            # another error is already ending the run, and this one must not hide it
            self.in_flight -= len(waiting.requests)
            self._wake.set()
            return
        seconds = time.monotonic() - began
        self.in_flight -= len(waiting.requests)
        timed = [reply if isinstance(reply, Failure) else replace(reply, seconds=seconds) for reply in replies]
        self._arrived.append((waiting, timed))
        self._wake.set()

    async def _answered(self, requests: Sequence[Request]) -> Sequence[_Reply]:
        if len(requests) > 1 and isinstance(self.backend, SamplesTogether):
            return await self.backend.sample_together(requests)
        return [await self.backend.sample(request) for request in requests]
