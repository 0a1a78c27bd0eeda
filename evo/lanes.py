"""A lane: the queue in front of one engine, and what that engine is working on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING

from fittest.evo.protocols import ChoosesNext, SamplesTogether
from fittest.evo.records import ROLES, STAGES, Completion, Failure, Request, Stage

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend
    from fittest.evo.records import Role
    from fittest.evo.spending import Ledger

Reply = Completion | Failure
Identified = tuple[tuple[str, int], Request]
"""A request with its journal key and sample."""

# enough requests to find one for each of dozens of servers, and few enough to look at whenever a slot falls free
_LOOK_AHEAD = 512


@dataclass(slots=True)
class Waiting:
    """Holds the requests that go to the engine together, which is mostly one.

    `identities` holds the journal key and sample of each. `ledger` is charged with what they cost.
    `overtaken` counts the requests that have gone before these although it was their turn.
    """

    lane: Lane
    identities: list[tuple[str, int]]
    requests: list[Request]
    answer: asyncio.Future[list[Reply]]
    ledger: Ledger | None
    overtaken: int = 0


class Lane:
    """Queues requests for one engine by stage, and hands them out as its slots fall free.

    Args:
        backend: the engine.
        roles: those that it serves, for people who look on.
        together: how many samples of one prompt go into one request at most; each takes a slot.

    Attributes:
        in_flight: the number of requests that the engine is working on.
    """

    def __init__(self, backend: Backend, roles: Sequence[Role], *, together: int) -> None:
        self.backend = backend
        self.roles = tuple(roles)
        self.in_flight = 0
        self._together = together if isinstance(backend, SamplesTogether) else 1
        self._queues: dict[Stage, deque[Waiting]] = {stage: deque() for stage in STAGES}
        self._chooses = backend if isinstance(backend, ChoosesNext) else None

    @property
    def stages(self) -> list[Stage]:
        """Returns the stages whose requests come here."""
        return [stage for stage in STAGES if ROLES[stage] in self.roles]

    @property
    def slots(self) -> int:
        """Returns how many requests the engine works on at once."""
        return self.backend.slots

    @property
    def queued(self) -> int:
        """Returns the number of requests that wait for a slot."""
        return sum(len(waiting.requests) for queue in self._queues.values() for waiting in queue)

    @property
    def waits(self) -> bool:
        """Tells whether any request waits for a slot."""
        return any(self._queues.values())

    def grouped(self, unknown: Sequence[Identified]) -> Iterator[Sequence[Identified]]:
        """Groups what goes to the engine together: neighbours that differ in sample and seed alone."""
        if self._together == 1:
            yield from ([one] for one in unknown)
            return
        for _, same in groupby(unknown, key=lambda one: replace(one[1], sample=0, seed=0)):
            group = list(same)
            yield from (group[start : start + self._together] for start in range(0, len(group), self._together))

    def put(self, waiting: Waiting) -> None:
        """Queues requests of one stage."""
        self._queues[waiting.requests[0].stage].append(waiting)

    def take(self, most: float) -> list[Waiting]:
        """Returns what is sent now: as many requests as there are free slots, and not more than `most`."""
        taken = self._chosen(min(self.slots - self.in_flight, most))
        most -= sum(len(waiting.requests) for waiting in taken)
        for queue in self._queues.values():
            while queue and len(queue[0].requests) <= min(self.slots - self.in_flight, most):
                taken.append(queue.popleft())
                self.in_flight += len(taken[-1].requests)
                most -= len(taken[-1].requests)
            if queue:  # its head needs more slots than are free; were later stages let by, it might wait for ever
                break
        return taken

    def _chosen(self, room: float) -> list[Waiting]:
        """Takes what the engine would rather answer now than the request whose turn it is, whatever the stage."""
        turn = next((queue[0] for queue in self._queues.values() if queue), None)
        # a server that has read a prompt mostly has room within one round of answers; if not, it is not waited for
        if self._chooses is None or turn is None or room <= 0 or turn.overtaken >= self.slots:
            return []
        places: list[tuple[deque[Waiting], int]] = []

        def ahead() -> Iterator[Sequence[Request]]:
            for queue in self._queues.values():
                for position, waiting in enumerate(islice(queue, _LOOK_AHEAD)):
                    places.append((queue, position))
                    yield waiting.requests

        best = [places[position] for position in self._chooses.best_next(ahead(), room)]
        chosen = [queue[position] for queue, position in best]
        for queue, position in reversed(best):
            del queue[position]
        self.in_flight += sum(len(waiting.requests) for waiting in chosen)
        turn.overtaken += len(chosen)
        return chosen
