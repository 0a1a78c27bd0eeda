"""Selects the instructions that a judge learns from, by labels that a model gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.labels import Label, Wanted, drawn, label_requests
from fittest.runs.asking import asked, journal_at
from fittest.runs.output.atomic import write_json, write_parquet
from fittest.runs.output.places import claimed
from fittest.runs.output.together import replaced_together
from fittest.runs.parts.engines import backend_of
from fittest.runs.sources.instructions import Instruction
from fittest.runs.sources.pair_file import write_json_lines

if TYPE_CHECKING:
    from fittest.runs.judge.config import JudgeConfig

_NOT_DRAWN = "not drawn"
_SCHEMA = {
    "prompt": pl.String, "category": pl.String, "complexity": pl.Int64, "length": pl.String, "source": pl.String,
    "licence": pl.String, "reason": pl.String,
}  # fmt: skip


def select(
    instructions: Sequence[Instruction],
    config: JudgeConfig,
    out: Path,
    *,
    wanted: Wanted,
    size: int | None = None,
    balance: bool = False,
    inputs: Iterable[Path] = (),
) -> dict[str, Any]:
    """Labels instructions and writes labels.parquet, selected.jsonl and summary.json into a folder.

    Args:
        instructions: the instructions to choose from.
        config: names the engine that writes the labels, and the seed.
        out: the folder; its journal keeps every label.
        wanted: says which labels are accepted.
        size: how many instructions are drawn at most; None takes all that are accepted.
        balance: whether the draw takes one instruction of each category in turn.
        inputs: the files that the instructions are from, which are not replaced.

    Returns:
        The content of summary.json.
    """
    seeds = SeedTree(config.judge.seed)
    requests = label_requests(
        [instruction.text for instruction in instructions], seeds=seeds, sampling=config.labels.sampling.sampling
    )
    engine = backend_of(config.engine)
    with claimed(out, "judge select", inputs=inputs) as claim:
        with journal_at(out / "journal.sqlite", claim.held) as journal:
            labels = [Label.read(reply) for reply in asked("labels", requests, engine, journal)]
        reasons = [wanted.refusal(label) for label in labels]
        taken = [place for place, reason in enumerate(reasons) if reason is None]
        kept = set(drawn(labels, taken, size if size is not None else len(taken), balance=balance, seeds=seeds))
        for place in taken:
            if place not in kept:
                reasons[place] = _NOT_DRAWN
        rows = [_row(*row) for row in zip(instructions, labels, reasons, strict=True)]
        summary = _summary(engine.fingerprint, labels, reasons)
        chosen = ({name: row[name] for name in _SCHEMA if name != "reason"} for row in rows if row["reason"] is None)
        claim.held.check()
        with replaced_together(out) as new:
            write_parquet(new / "labels.parquet", pl.DataFrame(rows, schema=_SCHEMA))
            write_json_lines(new / "selected.jsonl", chosen)
            write_json(new / "summary.json", summary)
        return summary


def _row(instruction: Instruction, label: Label | None, reason: str | None) -> dict[str, Any]:
    return {
        "prompt": instruction.text,
        "category": label.category if label else None,
        "complexity": label.complexity if label else None,
        "length": label.length if label else None,
        "source": instruction.source,
        "licence": instruction.licence,
        "reason": reason,
    }


def _summary(engine: str, labels: Sequence[Label | None], reasons: Sequence[str | None]) -> dict[str, Any]:
    chosen = [label for label, reason in zip(labels, reasons, strict=True) if reason is None and label is not None]
    refused = Counter(reason for reason in reasons if reason is not None)
    return {
        "engine": engine,
        "instructions": len(labels),
        "selected": len(chosen),
        "categories": dict(sorted(Counter(label.category for label in chosen).items())),
        "complexity": {
            str(level): count for level, count in sorted(Counter(label.complexity for label in chosen).items())
        },
        "lengths": dict(sorted(Counter(label.length for label in chosen).items())),
        "left_out": dict(sorted(refused.items())),
    }
