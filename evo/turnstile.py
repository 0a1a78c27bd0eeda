"""The reorder buffer: work finishes in any order, but passes this point in slot order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """Lets slots 0, 1, 2, … through one at a time; every slot must come exactly once."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, asyncio.Event] = {}

    @asynccontextmanager
    async def turn(self, slot: int) -> AsyncIterator[None]:
        """Wait until all earlier slots are through; hold the turnstile for the length of the block."""
        if slot != self._next:
            event = self._waiting[slot] = asyncio.Event()
            await event.wait()
            del self._waiting[slot]
        yield
        self._next += 1
        if self._next in self._waiting:
            self._waiting[self._next].set()
