"""Reads files of pairs in any known layout, and writes them in one."""

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
from fittest.runs.sources.pair_cells import PairRow
from fittest.runs.sources.pair_layouts import RecordedPair, find_layout, recorded_columns
from fittest.runs.sources.readers import open_table


@dataclass(frozen=True)
class PairTable:
    """Holds the pairs of a file in its order, and counts the rows that were left out.

    Attributes:
        pairs: the pairs.
        recorded: the verdicts that the file records, one for each pair; None if any pair has none.
        ties: how many pairs were left out because neither answer is better.
        skipped: how many rows were left out because their two dialogues differ before the last answer.
    """

    pairs: tuple[Pair, ...]
    recorded: tuple[Verdicts, ...] | None
    ties: int
    skipped: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns in words how many rows were left out, and why."""
        found = []
        if self.ties:
            found.append(f"{self.ties} pairs without a better answer are left out")
        if self.skipped:
            found.append(f"{self.skipped} rows whose two dialogues differ before the last answer are left out")
        return tuple(found)


def read_pairs(path: Path | str, *, labelled: bool = True, limit: int | None = None) -> PairTable:
    """Reads pairs; pairs whose answers are equally good are counted and left out.

    Args:
        path: Parquet, JSON lines or CSV, gzipped or not, or `hf:owner/name[:split]`, in a layout of `pair_layouts`.
        labelled: whether to leave out the pairs without a better answer; False keeps every pair.
        limit: how many pairs to keep, from the first; None keeps all.

    Raises:
        FittestError: the file cannot be read, or a row does not fit its layout; the message names the row.
    """
    table = open_table(str(path))
    layout = find_layout(table.columns, str(path))
    recorded = recorded_columns(table.columns) or ()
    wanted = {*layout.needs, *layout.takes, *recorded}
    rows = (PairRow(row, f"{path}: {table.unit} {number}") for number, row in table.rows(wanted))
    kept: list[RecordedPair] = []
    ties = skipped = 0
    for row in layout.read(rows):
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
    """Writes pairs, each with further columns, as JSON lines that `read_pairs` can read."""
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
    """Writes one JSON object per line; its keys keep their order."""
    write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _all_recorded(rows: Iterable[RecordedPair]) -> tuple[Verdicts, ...] | None:
    # accuracy over the pairs that happen to have verdicts would not compare with that over all pairs
    recorded = [row.recorded for row in rows]
    return None if any(verdicts is None for verdicts in recorded) else tuple(filter(None, recorded))
