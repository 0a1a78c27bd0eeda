"""Reads instructions from any pool file, and the categories that `fittest judge select` writes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.runs.sources.pool_columns import (
    CARRIED_COLUMNS,
    carried,
    find_prompt_column,
    prompt_text,
    without_lone_surrogates,
)
from fittest.runs.sources.readers import open_table


@dataclass(frozen=True, slots=True)
class Instruction:
    """Holds an instruction, its category ("" if it has none), and where it comes from."""

    text: str
    category: str = ""
    source: str = ""
    licence: str = ""


def read_instructions(path: Path | str, *, column: str | None = None, limit: int | None = None) -> list[Instruction]:
    """Returns the distinct instructions of a file in its order; a row without an instruction is skipped.

    Args:
        path: a file, folder or data set that `read_pool` can read.
        column: the column of the instructions; None looks for the usual names.
        limit: how many instructions to take, from the first; None takes all.

    Raises:
        FittestError: the file cannot be read, or it holds no instructions.
    """
    table = open_table(str(path))
    column = find_prompt_column(table.columns, column, str(path))
    found: dict[str, Instruction] = {}
    for number, row in table.rows({column, "category", *CARRIED_COLUMNS}):
        text = prompt_text(row.get(column), f"{path}: {table.unit} {number}")
        if text is None or not text.strip():
            continue
        text = without_lone_surrogates(text)
        beside = carried(row, table=table.name)
        # of equal instructions the first row counts
        found.setdefault(text, Instruction(text, str(row.get("category") or ""), beside.source, beside.licence or ""))
        if limit is not None and len(found) == limit:
            break
    if not found:
        raise FittestError(f"{path}: holds no instructions")
    return list(found.values())
