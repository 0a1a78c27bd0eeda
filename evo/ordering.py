"""Work on many things at once, and order where they are ready in any: slots, and milestones of a steady-state run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fittest.evo.protocols import Journal
    from fittest.evo.records import Milestone

Item = TypeVar("Item")


async def at_once(work: Callable[[Item], Awaitable[None]], items: Iterable[Item], *, at_most: int) -> None:
    """Works on items, which are begun in their order, several at a time.

    Args:
        work: is awaited for each item.
        items: of any number; one is taken when it is begun.
        at_most: so many are worked on at the same time.
    """
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    async with asyncio.TaskGroup() as workers:
        for _ in range(at_most):
            workers.create_task(worker())


class ReorderBuffer:
    """Lets slots 0, 1, 2, … through one at a time, in whatever order they come; each must come exactly once."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, asyncio.Event] = {}

    @asynccontextmanager
    async def in_order(self, slot: int) -> AsyncIterator[None]:
        """Wait until all earlier slots are through; hold back all later ones for the length of the block."""
        if slot != self._next:
            event = self._waiting[slot] = asyncio.Event()
            await event.wait()
            del self._waiting[slot]
        yield
        self._next += 1
        if self._next in self._waiting:
            self._waiting[self._next].set()


class MilestoneOrder:
    """Lets one milestone at a time change the state of a run without generations.

    The order is taken as it comes the first time, journalled, and kept to when the run is repeated. Milestones of the
    past wait for their place in it. Later ones come as they may, and each is in the journal before anything that
    follows from it. So the state is a function of the past, whatever the clock does.

    Args:
        journal: where milestones are kept; they are safe with its next exchange.
        recorded: the milestones of another run that is repeated; the journal's own count once they go further.
    """

    def __init__(self, journal: Journal, recorded: Sequence[Milestone] = ()) -> None:
        own = journal.milestones()
        self._journal = journal
        self._in_journal = len(own)
        self._past = own if len(own) >= len(recorded) else recorded
        self._known = frozenset(self._past)
        self._taken = 0
        self._waiting: dict[Milestone, asyncio.Event] = {}
        self._present = asyncio.Lock()
        self._past_is_over = asyncio.Event()
        self._wake_next()

    def known(self, milestone: Milestone) -> bool:
        """Whether the milestone is in the past."""
        return milestone in self._known

    async def past_is_over(self) -> None:
        """Wait until all milestones of the past are taken."""
        await self._past_is_over.wait()

    @asynccontextmanager
    async def take(self, milestone: Milestone) -> AsyncIterator[None]:
        """Wait for the place of this milestone; nothing else changes the state for the length of the block."""
        if milestone in self._known:
            await self._expect(milestone)
        else:
            await self._past_is_over.wait()
        await self._present.acquire()
        if self._taken >= self._in_journal:
            self._journal.record_milestone(self._taken, milestone)
        yield
        # not released after an error: the run is over, and whoever came next would miss what this milestone had to do
        self._present.release()
        self._taken += 1
        self._wake_next()

    async def _expect(self, milestone: Milestone) -> None:
        if self._past[self._taken] != milestone:
            event = self._waiting[milestone] = asyncio.Event()
            await event.wait()

    def _wake_next(self) -> None:
        if self._taken >= len(self._past):
            self._past_is_over.set()
        elif (event := self._waiting.pop(self._past[self._taken], None)) is not None:
            event.set()
