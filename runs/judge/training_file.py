"""Reads the files that a judge is trained on: judgments as `annotate` writes them, in TRL's conversational forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.fitness.judge.training import NothingToLearnError
from fittest.runs.sources.readers import open_table


def training_rows_of(file: Path, objective: str) -> list[dict[str, Any]]:
    """Returns the rows of train.jsonl, or of preferences.jsonl for DPO.

    Args:
        file: the file.
        objective: "sft" or "dpo", which decides the columns that every row must have.

    Raises:
        NothingToLearnError: the file holds no rows.
        FittestError: a row lacks what the objective needs; the message names the row.
    """
    table = open_table(str(file))
    wanted = ("prompt", "chosen", "rejected") if objective == "dpo" else ("prompt", "completion")
    rows = [row for _, row in table.rows(wanted)]
    # an error of its own: a loop of several trainings ends with the judge it has, instead of failing
    if not rows:
        what = "no judgment that has a wrong one beside it" if objective == "dpo" else "no judgment"
        raise NothingToLearnError(f"{file}: {what} to train on")
    for number, row in enumerate(rows, 1):
        if not all(_is_chat(row.get(name)) for name in wanted):
            raise FittestError(
                f"{file}: {table.unit} {number}: expected {', '.join(wanted)}, each a list of turns with role and"
                " content"
            )
    return rows


def _is_chat(turns: object) -> bool:
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(
            isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content"))
            for turn in turns
        )
    )
