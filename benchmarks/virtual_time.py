"""Provides an event loop whose clock jumps to the next event: hours of waiting pass at once, and repeat exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
REAL_SECONDS = 0.01


class _Impatient(selectors.DefaultSelector):
    """Never waits for a timer, but records how long it should have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # only a thread can wake the loop now
            return super().select(REAL_SECONDS)
        ready = super().select(0)
        if not ready:
            self.passed += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs `sleep` and timeouts in no time; `time` says how long they would have taken."""

    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)

    def time(self) -> float:
        """Returns the virtual seconds since the loop was made."""
        return self._impatient.passed


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in virtual time, as `asyncio.run` does in real time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
