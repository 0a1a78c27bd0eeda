"""The order of events in a run without generations: taken as it comes, journalled, and kept to when it is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from fittest.evo.protocols import Journal


class Turn(NamedTuple):
    """What happened to which offspring; `number` counts offspring from 0 through all generations."""

    event: Literal["born", "gated", "joined"]
    number: int


class Turns:
    """Lets one event at a time change the state of a run.

    Events of the past wait until it is their turn in it. Those after it come as they may, and each is in the journal
    before anything that follows from it. So the state is a function of the past, whatever the clock does.

    Args:
        journal: where turns are kept; they are safe with its next exchange.
        recorded: the turns of another run that is repeated; the journal's own count once they go further.
    """

    def __init__(self, journal: Journal, recorded: Sequence[Turn] = ()) -> None:
        own = journal.turns()
        self._journal = journal
        self._in_journal = len(own)
        self._past = own if len(own) >= len(recorded) else recorded
        self._known = frozenset(self._past)
        self._taken = 0
        self._waiting: dict[Turn, asyncio.Event] = {}
        self._present = asyncio.Lock()
        self._past_is_over = asyncio.Event()
        self._wake_next()

    def known(self, turn: Turn) -> bool:
        """Whether the turn is in the past."""
        return turn in self._known

    async def past_is_over(self) -> None:
        """Wait until all turns of the past are taken."""
        await self._past_is_over.wait()

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[None]:
        """Wait for this turn; nothing else changes the state for the length of the block."""
        if turn in self._known:
            await self._expect(turn)
        else:
            await self._past_is_over.wait()
        await self._present.acquire()
        if self._taken >= self._in_journal:
            self._journal.record_turn(self._taken, turn)
        yield
        # not released after an error: the run is over, and whoever came next would miss what this turn had to do
        self._present.release()
        self._taken += 1
        self._wake_next()

    async def _expect(self, turn: Turn) -> None:
        if self._past[self._taken] != turn:
            event = self._waiting[turn] = asyncio.Event()
            await event.wait()

    def _wake_next(self) -> None:
        if self._taken >= len(self._past):
            self._past_is_over.set()
        elif (event := self._waiting.pop(self._past[self._taken], None)) is not None:
            event.set()
