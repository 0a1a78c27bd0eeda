"""Asking an engine many things at once, outside a run: each reply journalled first, with progress told."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evo.errors import first_error
from evo.feeder import Feeder
from runs.journal import SqliteJournal

if TYPE_CHECKING:
    from evo.protocols import Backend, Journal
    from evo.records import Completion, Failure, Request


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


def asked(what: str, requests: Sequence[Request], engine: Backend, journal: Journal) -> list[Completion | Failure]:
    """All replies in the order of the requests, those in the journal from there, with a line of progress now and then.

    Raises:
        FittestError: the engine cannot be loaded, or is lost; what it answered before is kept.
    """
    return asyncio.run(_asked(what, requests, engine, journal))


async def _asked(
    what: str, requests: Sequence[Request], engine: Backend, journal: Journal
) -> list[Completion | Failure]:
    told = Told(what, len(requests))
    try:
        async with Feeder(engine, journal) as feeder:
            asking = asyncio.create_task(feeder.ask_all(requests))
            while not (await asyncio.wait([asking], timeout=0.5))[0]:
                told.reached(feeder.traffic.total.requests)
            return asking.result()
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
