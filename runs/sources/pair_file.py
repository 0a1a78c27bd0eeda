"""Files of pairs: read in any known layout, written in one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Verdicts
from fittest.runs.output.atomic import write_text
from fittest.runs.sources.pair_layouts import RecordedPair, find_layout, recorded_columns
from fittest.runs.sources.readers import open_table


@dataclass(frozen=True)
class PairTable:
    """The pairs of a file, in its order, and what else its reader should hear of.

    `recorded` holds the verdicts that the file brings along, for each pair, or is None.
    """

    pairs: tuple[Pair, ...]
    recorded: tuple[Verdicts, ...] | None
    ties: int
    skipped: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Rows that were left out, in words."""
        told = []
        if self.ties:
            told.append(f"{self.ties} pairs without a better answer are left out")
        if self.skipped:
            told.append(f"{self.skipped} rows whose two dialogues differ before the last answer are left out")
        return tuple(told)


def read_pairs(path: Path | str, *, labelled: bool = True, limit: int | None = None) -> PairTable:
    """Read pairs; those that people found equally good are counted and left out.

    Args:
        path: Parquet, JSON lines or CSV, gzipped or not, or `hf:owner/name[:split]`, in a layout of `layouts`.
        labelled: leave out pairs without a better answer; False reads every pair.
        limit: read no further than so many pairs.

    Raises:
        FittestError: the file cannot be read, or a row is not what its layout has; the message names it.
    """
    table = open_table(str(path))
    layout = find_layout(table.columns, str(path))
    recorded = recorded_columns(table.columns) or ()
    wanted = {*layout.needs, *layout.takes, *recorded}
    numbered = ((f"{path}: {table.unit} {number}", row) for number, row in table.rows(wanted))
    kept: list[RecordedPair] = []
    ties = skipped = 0
    for row in layout.read(numbered):
        if row is None:
            skipped += 1
        elif labelled and row.pair.label is None:
            ties += 1
        else:
            kept.append(row)
        if len(kept) == limit:
            break
    if not kept:
        raise FittestError(f"{path}: holds no pair{' of which one answer is better' if labelled else ''}")
    return PairTable(tuple(row.pair for row in kept), _all_recorded(kept), ties, skipped)


def write_pairs(path: Path, pairs: Iterable[tuple[Pair, Mapping[str, Any]]]) -> None:
    """Write pairs, each with further columns, as JSON lines that `read_pairs` reads."""
    write_json_lines(
        path,
        (
            {
                "pair_id": pair.pair_id,
                "subset": pair.subset,
                "instruction": pair.instruction,
                "response_a": pair.response_a,
                "response_b": pair.response_b,
                "label": pair.label or "tie",
                **more,
            }
            for pair, more in pairs
        ),
    )


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, keys in the order given."""
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _all_recorded(rows: Iterable[RecordedPair]) -> tuple[Verdicts, ...] | None:
    recorded = [row.recorded for row in rows]
    return None if any(verdicts is None for verdicts in recorded) else tuple(filter(None, recorded))
