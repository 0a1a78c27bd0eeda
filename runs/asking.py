"""Asking an engine many things at once, outside a run: each reply journalled first, with progress told."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fittest.evo.errors import first_error
from fittest.evo.feeder import Feeder
from fittest.runs.output.journal import SqliteJournal

if TYPE_CHECKING:
    from fittest.evo.protocols import Ask, Backend, Journal
    from fittest.evo.records import Completion, Failure, Request

Found = TypeVar("Found")


@contextmanager
def journal_at(path: Path | str) -> Iterator[SqliteJournal]:
    """The journal of a folder, which is made where it is not there; closed in the end."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    journal = SqliteJournal(path)
    try:
        yield journal
    finally:
        journal.close()


def asked(
    what: str, requests: Sequence[Request], engine: Backend, journal: Journal, *, together: int | None = None
) -> list[Completion | Failure]:
    """All replies in the order of the requests, those in the journal from there.

    Args:
        what: is asked for, for the line of progress.
        requests: in any number.
        engine: answers.
        journal: keeps each reply.
        together: samples of one prompt that go into one request, where the engine can.

    Raises:
        FittestError: the engine cannot be loaded, or is lost; what it answered before is kept.
    """
    return with_engine(what, lambda ask: ask(requests), engine, journal, total=len(requests), together=together or 1)


def with_engine(
    what: str,
    body: Callable[[Ask], Awaitable[Found]],
    engine: Backend,
    journal: Journal,
    *,
    total: int,
    together: int = 1,
) -> Found:
    """What `body` finds by asking an engine, with a line of progress now and then.

    Args:
        what: it does, for the line of progress.
        body: is given the way to ask.
        engine: answers; entered and left here.
        journal: keeps each reply, and is looked into first.
        total: how many replies are expected.
        together: samples of one prompt that go into one request, where the engine can.

    Raises:
        FittestError: the engine cannot be loaded, or is lost; what it answered before is kept.
    """
    return asyncio.run(_with_engine(what, body, Feeder(engine, journal, together=together), total))


async def _with_engine(what: str, body: Callable[[Ask], Awaitable[Found]], feeder: Feeder, total: int) -> Found:
    told = Told(what, total)
    try:
        async with feeder:
            working = asyncio.ensure_future(body(feeder.ask_all))
            while not (await asyncio.wait([working], timeout=0.5))[0]:
                told.reached(feeder.traffic.total.requests)
            return working.result()
    except BaseExceptionGroup as group:
        raise first_error(group) from None


class Told:
    """Says how far a long piece of work is, on standard error, every ten seconds.

    Args:
        what: is counted.
        total: of it.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._due = time.monotonic() + 10.0

    def step(self, more: int = 1) -> None:
        """So many more."""
        self.reached(self._done + more)

    def reached(self, done: int) -> None:
        """So many."""
        self._done = done
        if time.monotonic() >= self._due:
            sys.stderr.write(f"{self._what}: {done} of {self._total}\n")
            self._due = time.monotonic() + 10.0
