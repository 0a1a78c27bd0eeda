"""Reads the human prompts that a search starts from: a file, a data set, or the shipped starter pool."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.records import PoolPrompt
from fittest.evo.seeds import SeedTree, Stream
from fittest.runs.sources.pool_columns import (
    CARRIED_COLUMNS,
    carried,
    find_prompt_column,
    is_midjourney_boilerplate,
    language_code,
    prompt_text,
    without_lone_surrogates,
)
from fittest.runs.sources.readers import open_table
from fittest.runs.sources.table import Table

__all__ = ["STARTER_POOL", "Pool", "read_pool"]

STARTER_POOL = Path(__file__).with_name("starter.jsonl")

_WORDINGS = {
    "empty": "skipped for want of a prompt",
    "replaced": "mended with U+FFFD, for lone surrogates or bytes that are not UTF-8",
    "language": "left out for their language",
    "midjourney": "left out as Midjourney boilerplate",
}


@dataclass(frozen=True)
class Pool:
    """Holds the prompts in file order, and warnings for the user; duplicates are left to a gate."""

    prompts: tuple[PoolPrompt, ...]
    warnings: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Returns 16 hex digits that identify the prompts and where they come from."""
        rows = [(prompt.text, prompt.source, prompt.licence) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


class _Tally:
    """Counts the rows that were skipped or repaired, and remembers the first of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, int] = {}

    def note(self, what: str, number: int) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, number)

    def warnings(self, table: Table) -> tuple[str, ...]:
        return tuple(
            f"{table.name}: {table.unit}s {wording}: {self.counts[what]} (first: {self.first[what]})"
            for what, wording in _WORDINGS.items()
            if self.counts[what]
        )


def read_pool(
    path: str | Path,
    *,
    prompt_column: str | None = None,
    limit: int = 0,
    seed: int = 0,
    languages: Sequence[str] = (),
) -> Pool:
    """Reads a pool.

    Args:
        path: Parquet, JSON lines (or one JSON array), CSV, TSV or plain text with one prompt per line, where text may
            be gzipped; or `hf:owner/name[:split]`, or a folder written by `save_to_disk`.
        prompt_column: the column of the prompts, or of the conversations whose first human turn is the prompt;
            None looks for the usual names.
        limit: the size of a seeded sample, which is kept in file order; 0 takes everything.
        seed: the run's seed.
        languages: names or codes of languages; a row whose `language` is another is left out. If empty, every row
            is kept.

    Raises:
        FittestError: the pool cannot be read, or it holds no prompt.
    """
    table = open_table(str(path))
    tally = _Tally()
    prompts = list(_prompts(table, str(path), prompt_column, languages, tally))
    warnings = tally.warnings(table)
    if not prompts:
        raise FittestError("; ".join((f"{path}: holds no prompts", *warnings)))
    return Pool(tuple(_sample(prompts, limit, seed)), warnings)


def _prompts(
    table: Table, where: str, wanted_column: str | None, languages: Iterable[str], tally: _Tally
) -> Iterator[PoolPrompt]:
    if not table.columns:
        return
    column = find_prompt_column(table.columns, wanted_column, where)
    codes = {language_code(language) for language in languages}
    for number, row in table.rows({column, *CARRIED_COLUMNS}):
        cell = row.get(column)
        text = prompt_text(cell, f"{where}: {table.unit} {number}")
        beside = carried(row, table=table.name)
        if text is None:
            tally.note("empty", number)
        elif codes and beside.language is not None and language_code(beside.language) not in codes:
            tally.note("language", number)
        # WildChat holds conversations; a plain column of prompts is left as its owner made it
        elif isinstance(cell, list) and is_midjourney_boilerplate(text):
            tally.note("midjourney", number)
        else:
            mended = without_lone_surrogates(text)
            if mended != text:
                tally.note("replaced", number)
            yield PoolPrompt(mended, *beside)


def _sample(prompts: Sequence[PoolPrompt], limit: int, seed: int) -> Iterable[PoolPrompt]:
    if not 0 < limit < len(prompts):
        return prompts
    chosen = SeedTree(seed).generator(Stream.POOL).choice(len(prompts), size=limit, replace=False)
    return (prompts[index] for index in sorted(chosen))
