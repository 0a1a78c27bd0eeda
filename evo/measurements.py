"""Measurements: numbers that a model or a rule gives for a subject, looked up in the journal before they are computed.

Rewards, log-odds and losses are all measurements. A subject is named by a hash of everything that the number depends
on, beside the fingerprint of what measures it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from fittest.evo.records import Missing

if TYPE_CHECKING:
    from fittest.evo.protocols import Journal

_Item = TypeVar("_Item")


class Measurements(Generic[_Item]):
    """Holds what is known of some items, and which of them are still to be measured.

    A value is recorded before it is used. Measurements ride along with the journal's next exchange, so a value that
    was lost with a killed process is computed again, and is the same.

    Args:
        journal: it is looked into first, and keeps what is measured; None keeps nothing.
        fingerprint: identifies what measures.
        items: what is measured, by subject.

    Attributes:
        known: a number, or the reason why it is missing, by subject.
        wanted: the items that are not known, by subject, in the order in which they were given.
    """

    def __init__(self, journal: Journal | None, fingerprint: str, items: Mapping[str, _Item]) -> None:
        self._journal = journal
        self._fingerprint = fingerprint
        self.known: dict[str, float | Missing] = (
            {} if journal is None else journal.measurements(fingerprint, list(items))
        )
        self.wanted = {subject: item for subject, item in items.items() if subject not in self.known}

    async def complete(
        self, measure: Callable[[list[_Item]], Awaitable[Sequence[float | Missing]]], *, together: int = 0
    ) -> dict[str, float | Missing]:
        """Measures what is wanted, and returns what is known then.

        Args:
            measure: awaited with items, gives a value for each in their order.
            together: the number of items that are measured, and then recorded, at once; 0 takes all of them.
        """
        for batch in self._batches(together):
            self._record(batch, await measure(list(batch.values())))
        return self.known

    def complete_now(
        self, measure: Callable[[list[_Item]], Sequence[float | Missing]], *, together: int = 0
    ) -> dict[str, float | Missing]:
        """Does the same outside of a run, where no feeder commits; each batch is safe before the next begins."""
        for batch in self._batches(together):
            self._record(batch, measure(list(batch.values())))
            if self._journal is not None:
                self._journal.exchange([], [])
        return self.known

    def _batches(self, together: int) -> Iterator[dict[str, _Item]]:
        # a run asks once for each round of each prompt, and nearly always for all of it
        if together == 0:
            yield from [self.wanted] if self.wanted else []
            return
        rest = iter(self.wanted.items())
        while batch := dict(islice(rest, together)):
            yield batch

    def _record(self, batch: Mapping[str, _Item], values: Sequence[float | Missing]) -> None:
        found = dict(zip(batch, values, strict=True))
        self.known |= found
        if self._journal is not None:
            self._journal.record_measurements(self._fingerprint, found)
