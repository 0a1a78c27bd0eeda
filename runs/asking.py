"""Asks an engine many things at once, outside a run; each reply enters the journal, and progress is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fittest.evo.errors import first_error
from fittest.evo.feeder import Feeder
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.terminal import tell

if TYPE_CHECKING:
    from fittest.evo.protocols import Ask, Backend, Journal
    from fittest.evo.records import Completion, Failure, Request
    from fittest.runs.output.held import Held

_Returned = TypeVar("_Returned")


@contextmanager
def journal_at(path: Path | str, held: Held | None = None) -> Iterator[SqliteJournal]:
    """Opens the journal at a path and closes it at the end; missing folders and a missing journal are created.

    Args:
        path: the file; ":memory:" keeps nothing.
        held: the files that must stay where they are while the journal is written.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with SqliteJournal(path, held=held) as journal:
        if journal.mended:
            for line in journal.damage():
                tell(f"warning: {line}")
        yield journal


def asked(
    what: str, requests: Sequence[Request], engine: Backend, journal: Journal, *, together: int | None = None
) -> list[Completion | Failure]:
    """Returns all replies, in the order of the requests; replies that the journal holds are taken from it.

    Args:
        what: names the replies in the progress line, for example "judgments".
        requests: any number of requests.
        engine: the engine that answers.
        journal: the journal that keeps each reply.
        together: how many samples of one prompt go into one request, if the engine supports it; None means one.

    Raises:
        FittestError: the engine cannot be loaded, or it is lost; its earlier answers are kept.
    """
    return with_engine(what, lambda ask: ask(requests), engine, journal, total=len(requests), together=together or 1)


def with_engine(
    what: str,
    body: Callable[[Ask], Awaitable[_Returned]],
    engine: Backend,
    journal: Journal,
    *,
    total: int,
    together: int = 1,
) -> _Returned:
    """Returns what `body` returns after it has asked an engine; a progress line appears every ten seconds.

    Args:
        what: names the replies in the progress line.
        body: a coroutine function that receives the function to ask with.
        engine: the engine that answers; this function enters and leaves it.
        journal: the journal that keeps each reply; a reply that it holds is not asked for again.
        total: how many replies are expected.
        together: how many samples of one prompt go into one request, if the engine supports it.

    Raises:
        FittestError: the engine cannot be loaded, or it is lost; its earlier answers are kept.
    """
    return asyncio.run(_with_engine(what, body, Feeder(engine, journal, together=together), total))


async def _with_engine(
    what: str, body: Callable[[Ask], Awaitable[_Returned]], feeder: Feeder, total: int
) -> _Returned:
    progress = ProgressLine(what, total)
    try:
        async with feeder:
            # wait() with a timeout leaves the task alone, where wait_for() would cancel it
            working = asyncio.ensure_future(body(feeder.ask_all))
            while not (await asyncio.wait([working], timeout=0.5))[0]:
                progress.reached(feeder.traffic.total.requests)
            return working.result()
    except BaseExceptionGroup as group:
        # the feeder's tasks may fail together; a user can act on one message, not on a group
        raise first_error(group) from None


class ProgressLine:
    """Prints how far a long piece of work is, on standard error, every ten seconds.

    Args:
        what: names what is counted, for example "judgments".
        total: the count at which the work is finished.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._due = time.monotonic() + 10.0

    def step(self, more: int = 1) -> None:
        """Adds to the count; print it if ten seconds have passed since the last line."""
        self.reached(self._done + more)

    def reached(self, done: int) -> None:
        """Sets the count; prints it if ten seconds have passed since the last line."""
        self._done = done
        if time.monotonic() >= self._due:
            tell(f"{self._what}: {done} of {self._total}")
            self._due = time.monotonic() + 10.0
