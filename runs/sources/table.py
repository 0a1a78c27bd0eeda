"""Defines a source of rows, whichever format it is read from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

Row = dict[str, object]


@dataclass(frozen=True)
class Table:
    """Is a source of rows.

    Attributes:
        name: the file or data set; it is the `source` of every row that names no other.
        columns: the columns that the rows may have.
        unit: what the numbers of the rows count: "row" or "line".
        rows: takes the wanted columns and yields (number, row), counted from 1; a row may lack a column.
    """

    name: str
    columns: tuple[str, ...]
    unit: str
    rows: Callable[[Collection[str]], Iterator[tuple[int, Row]]]
