"""Feeds the engine: one stream of requests keeps every slot busy, and each reply is journalled before it is used."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from fittest.evo.engines import Engine, Engines
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.keys import request_key
from fittest.evo.lanes import Identified, Lane, Reply, Waiting
from fittest.evo.protocols import SamplesTogether
from fittest.evo.reasoning import without_reasoning
from fittest.evo.records import ROLES, STAGES, Failure, Request, Role, Stage
from fittest.evo.spending import Budget, Ledger, account

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend, Journal


class EndRun(Exception):  # noqa: N818 - an order, not an error
    """Ends the run for a reason that is no error; every reply that has arrived is kept.

    Args:
        reason: the cap that was reached, or why the run was interrupted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Feeder:
    """Sends requests as slots fall free, and hands out each reply once it is safe in the journal.

    Each engine has a lane of its own, with its own slots; the roles that share an engine share a lane.

    One task owns the queue. It commits the replies that have arrived in one transaction, answers the waiting callers,
    and logs and sends as many requests as there are free slots. The cost of a commit is thus shared.

    Args:
        engines: the engine of each role, or one for all; they are entered and left together with the feeder.
        journal: keeps replies, and is asked for those of earlier sessions.
        budget: the caps, which are checked before a request is sent.
        seconds_before: the wall time that earlier sessions of the same run took.
        drain_seconds: how long an interruption, or an error elsewhere, waits for the requests in flight.
        together: how many samples of one prompt go into one request, of an engine that is given alone.

    Attributes:
        lanes: one for each engine, that of the policy first.
        traffic: all replies that were asked for, each counted once, including those from the journal.
        fresh: the replies of this session's engine.
    """

    def __init__(
        self,
        engines: Backend | Engines,
        journal: Journal,
        *,
        budget: Budget | None = None,
        seconds_before: float = 0.0,
        drain_seconds: float = 10.0,
        together: int = 1,
    ) -> None:
        engines = engines if isinstance(engines, Engines) else Engines(Engine(engines, together=together))
        self._engine_of: dict[Stage, Engine] = {stage: engines.of(ROLES[stage]) for stage in STAGES}
        self.traffic = Ledger()
        self.fresh = Ledger()
        self._journal = journal
        self._budget = budget or Budget()
        self._started = time.monotonic() - seconds_before
        self._drain_seconds = drain_seconds
        self.lanes = self._made_lanes(engines)
        self._lane_of = {stage: lane for lane in self.lanes for stage in lane.stages}
        # what earlier sessions were answered counts from the start, whether or not it has been asked for again
        self._spent = journal.spent()
        self._answered_before = self._answered = self._spent.total.requests
        # numbers and not identities, which would take 200 bytes for each request of a run
        self._counted: set[int] = set()
        self._pending: dict[tuple[str, int], tuple[asyncio.Future[list[Reply]], int]] = {}
        self._arrived: list[tuple[Waiting, Sequence[Reply]]] = []
        # what has failed since an engine last gave a role anything: an engine that is lost has failed, and not these
        self._failed_in_a_row: dict[Role, list[tuple[str, int]]] = {}
        self._lost = False
        self._settled: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._end_reason: str | None = None
        self._end_by = math.inf
        self._tasks = asyncio.TaskGroup()
        self._entered = AsyncExitStack()

    def _made_lanes(self, engines: Engines) -> list[Lane]:
        """Returns a lane for each engine; two roles with the same engine object share one."""
        roles: dict[int, list[Role]] = {}
        for role in engines.roles:
            roles.setdefault(id(engines.of(role).backend), []).append(role)
        lanes = []
        for shared in roles.values():
            engine = engines.of(shared[0])
            # a group that is larger than the cap on requests could never be sent
            most = min(engine.together, engine.backend.slots, self._budget.requests_left(answered=0))
            lanes.append(Lane(engine.backend, shared, together=int(most)))
        return lanes

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            for lane in self.lanes:
                await entered.enter_async_context(lane.backend)
            self._entered = entered.pop_all()
        await self._tasks.__aenter__()
        self._owner = self._tasks.create_task(self._own())
        return self

    async def __aexit__(self, *exc: object) -> None:
        # the engines are left whatever happens: a journal that cannot be written keeps no process of theirs alive
        async with self._entered:
            try:
                self._owner.cancel()
                if isinstance(exc[1], Exception):
                    await self._drain()
                await self._tasks.__aexit__(*exc)  # type: ignore[arg-type]
            finally:
                self._journal_arrived([])
                if self._lost:
                    self._journal.forget([one for failed in self._failed_in_a_row.values() for one in failed])

    async def _drain(self) -> None:
        """Waits for the requests in flight when an error elsewhere ends the run: they are paid for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                while self.in_flight:
                    self._wake.clear()
                    await self._wake.wait()

    @property
    def in_flight(self) -> int:
        """Returns the number of requests that the engines are working on."""
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def queued(self) -> int:
        """Returns the number of requests that wait for a slot."""
        return sum(lane.queued for lane in self.lanes)

    @property
    def most_slots(self) -> int:
        """Returns the slots of the engine that has the most."""
        return max(lane.slots for lane in self.lanes)

    @property
    def ending(self) -> str | None:
        """Returns the reason why nothing more is sent; None while requests are sent."""
        return self._end_reason

    @property
    def seconds(self) -> float:
        """Returns the wall time of this run so far in seconds, all sessions together."""
        return time.monotonic() - self._started

    async def hungry(self) -> None:
        """Waits until, at each engine, fewer requests wait for a slot than there are slots."""
        while any(lane.queued >= lane.slots for lane in self.lanes):
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

    def settle(self) -> None:
        """Takes the failures so far as final, since a finished generation tells of them."""
        self._failed_in_a_row.clear()
        for also in self._settled:
            also()

    def when_settled(self, also: Callable[[], None]) -> None:
        """Has something done whenever the failures so far become final.

        Args:
            also: takes note of that.
        """
        self._settled.append(also)

    def interrupt(self) -> None:
        """Ends the run for a user who waits: requests that are not answered after `drain_seconds` are given up."""
        self.end("interrupted", within=self._drain_seconds)

    async def ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns replies in the order of the requests; known replies come from the journal, and none is asked twice.

        Args:
            requests: the requests; equal ones get the same reply.
        """
        ledger = account()
        known: dict[tuple[str, int], Reply] = {}
        unknown: dict[tuple[str, int], Request] = {}
        addressed = [self._engine_of[request.stage].address(request) for request in requests]
        identities = [self._identity(request) for request in addressed]
        for identity, request in zip(identities, addressed, strict=True):
            if identity in self._pending or identity in unknown or identity in known:
                continue
            # a journal that was empty in the beginning holds what was counted since, and nothing else
            may_be_kept = self._answered_before or _number(identity) in self._counted
            reply = self._journal.reply(*identity) if may_be_kept else None
            if reply is None:
                unknown[identity] = request
            else:
                known[identity] = reply
                self._count(identity, request, reply, ledger)
        for lane, theirs in self._by_lane(unknown).items():
            for group in lane.grouped(theirs):
                self._queue(lane, group, ledger)
        waiting = {identity: self._pending[identity] for identity in identities if identity not in known}
        for identity, (answer, place) in waiting.items():
            known[identity] = (await answer)[place]
        return [known[identity] for identity in identities]

    def _identity(self, request: Request) -> tuple[str, int]:
        return request_key(self._engine_of[request.stage].backend.fingerprint, request), request.sample

    def _by_lane(self, unknown: Mapping[tuple[str, int], Request]) -> dict[Lane, list[Identified]]:
        """Returns the requests by the lane of the engine that serves their stage."""
        lanes: dict[Lane, list[Identified]] = {}
        for identity, request in unknown.items():
            lanes.setdefault(self._lane_of[request.stage], []).append((identity, request))
        return lanes

    def _queue(self, lane: Lane, group: Sequence[Identified], ledger: Ledger | None) -> None:
        answer: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        for place, (identity, _) in enumerate(group):
            self._pending[identity] = (answer, place)
        identities, requests = [identity for identity, _ in group], [request for _, request in group]
        lane.put(Waiting(lane, identities, requests, answer, ledger))
        self._wake.set()

    def _count(self, identity: tuple[str, int], request: Request, reply: Reply, ledger: Ledger | None) -> None:
        """Charges a reply to its ledger the first time that it is handed out."""
        number = _number(identity)
        if number in self._counted:
            return
        self._counted.add(number)
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
                self._spent[request.stage].count(reply)
                self._answered += 1
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

    def _journal_arrived(self, sent: Sequence[Waiting]) -> list[tuple[Waiting, Sequence[Reply]]]:
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

    def _next_to_send(self) -> list[Waiting]:
        """Takes as many requests as there are free slots, or none once the run is to end."""
        if self._end_reason is None and (self.in_flight or self._waits):
            cap = self._budget.reached(self._spent, self.seconds)
            if cap:
                self.end(cap)
        if self._end_reason is not None:
            return []
        sent: list[Waiting] = []
        left = self._budget.requests_left(self._answered)
        for lane in self.lanes:
            sent += lane.take(left - self.in_flight)
        if self.in_flight == 0 and self._waits:
            self.end("max_requests")
        return sent

    @property
    def _waits(self) -> bool:
        return any(lane.waits for lane in self.lanes)

    async def _serve(self, waiting: Waiting) -> None:
        began = time.monotonic()
        replies: Sequence[Reply]
        try:
            replies = await _answered(waiting.lane.backend, waiting.requests)
        except RequestFailedError as error:
            replies = [Failure(str(error))] * len(waiting.requests)
        except Exception as error:
            if not self._owner.cancelling():
                self._lost = isinstance(error, FittestError)
                raise
            # another error is already ending the run, and this one must not hide it
            waiting.lane.in_flight -= len(waiting.requests)
            self._wake.set()
            return
        seconds = time.monotonic() - began
        waiting.lane.in_flight -= len(waiting.requests)
        timed = [self._read(waiting.requests[0], reply, seconds) for reply in replies]
        self._arrived.append((waiting, timed))
        self._note_failures(waiting, timed)
        self._wake.set()

    def _note_failures(self, waiting: Waiting, replies: Sequence[Reply]) -> None:
        """Notes which requests have failed since the last answer to one of their role."""
        role = ROLES[waiting.requests[0].stage]
        failed = [one for one, reply in zip(waiting.identities, replies, strict=True) if isinstance(reply, Failure)]
        if len(failed) < len(replies):
            self._failed_in_a_row.pop(role, None)
        elif failed:
            self._failed_in_a_row.setdefault(role, []).extend(failed)

    def _read(self, request: Request, reply: Reply, seconds: float) -> Reply:
        """Returns a reply with its time, and its reasoning apart from its answer."""
        if isinstance(reply, Failure):
            return reply
        # a raw text and an answer that was begun go through no template that opens the reasoning
        plain = request.prompt is None and request.messages[-1].role == "user"
        begins_inside = plain and self._engine_of[request.stage].begins_in_reasoning
        return replace(without_reasoning(reply, begins_inside=begins_inside), seconds=seconds)


def _number(identity: tuple[str, int]) -> int:
    """Returns a number that no other request of a run has: 64 bits of the hash that is its key, and its sample."""
    key, sample = identity
    return (int(key[:16], 16) << 16) + sample


async def _answered(backend: Backend, requests: Sequence[Request]) -> Sequence[Reply]:
    if len(requests) > 1 and isinstance(backend, SamplesTogether):
        return await backend.sample_together(requests)
    return [await backend.sample(request) for request in requests]
