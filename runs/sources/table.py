"""A source of rows, whatever format it was read from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

Row = dict[str, object]


@dataclass(frozen=True)
class Table:
    """A source of rows. `name` is its default source, `unit` what its numbers count ("row" or "line").

    `rows` takes the wanted columns and gives (number, row) from 1; a column may be missing from a row.
    """

    name: str
    columns: tuple[str, ...]
    unit: str
    rows: Callable[[Collection[str]], Iterator[tuple[int, Row]]]
