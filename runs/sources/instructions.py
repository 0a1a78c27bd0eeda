"""Instructions from a file: any pool, with the category of each where `fittest judge select` has written one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.runs.sources.pool_columns import LICENCE_COLUMNS, find_prompt_column, prompt_text, without_lone_surrogates
from fittest.runs.sources.readers import open_table


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is asked, its category where it has one, and where it comes from."""

    text: str
    category: str = ""
    source: str = ""
    licence: str = ""


def read_instructions(path: Path | str, *, column: str | None = None, limit: int | None = None) -> list[Instruction]:
    """The distinct instructions of a file in its order; rows without one are passed over.

    Args:
        path: what `read_pool` reads.
        column: of the instructions; None looks for the usual names.
        limit: take so many from the first.

    Raises:
        FittestError: the file cannot be read, or holds none.
    """
    table = open_table(str(path))
    column = find_prompt_column(table.columns, column, str(path))
    found: dict[str, Instruction] = {}
    for number, row in table.rows({column, "category", "source", *LICENCE_COLUMNS}):
        text = prompt_text(row.get(column), f"{path}: {table.unit} {number}")
        if text is None or not text.strip():
            continue
        text = without_lone_surrogates(text)
        licence = next((str(row[name]) for name in LICENCE_COLUMNS if row.get(name)), "")
        source = str(row.get("source") or table.name)
        found.setdefault(text, Instruction(text, str(row.get("category") or ""), source, licence))
        if limit is not None and len(found) == limit:
            break
    if not found:
        raise FittestError(f"{path}: holds no instructions")
    return list(found.values())
