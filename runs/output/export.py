"""Writes survivors as training data: each format is one small function, and a data card stands beside each file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from fittest.evo.errors import FittestError
from fittest.runs.config.kinds import Registry
from fittest.runs.config.section import near
from fittest.runs.output.atomic import write_parquet, write_text
from fittest.runs.output.card import data_card
from fittest.runs.output.survivors import read_survivors

_Row = dict[str, Any]
_Exporter = Callable[[_Row], Iterable[_Row]]
"""Takes one row of survivors.parquet and returns the rows that it becomes; no row leaves the survivor out."""


@dataclass(frozen=True, slots=True)
class _ExportResult:
    """Names the file and the card that an export wrote, and counts its rows and the survivors that gave no row."""

    out: Path
    card: Path
    rows: int
    skipped: int


def _trl_preference(survivor: _Row) -> Iterator[_Row]:
    """Yields TRL's conversational preference row; a survivor whose two answers are equal is left out."""
    if _has_pair(survivor):
        yield {
            "prompt": [_turn("user", survivor["prompt"])],
            "chosen": [_turn("assistant", survivor["chosen"])],
            "rejected": [_turn("assistant", survivor["rejected"])],
            **_columns(survivor, "prompt_id", "source", "licence", "chosen_reward", "rejected_reward"),
        }


def _trl_sft(survivor: _Row) -> Iterator[_Row]:
    """Yields TRL's conversational supervised row: the prompt and its best answer."""
    if survivor["chosen"] is not None:
        yield {
            "messages": [_turn("user", survivor["prompt"]), _turn("assistant", survivor["chosen"])],
            **_columns(survivor, "prompt_id", "source", "licence", "chosen_reward"),
        }


def _kto(survivor: _Row) -> Iterator[_Row]:
    """Yields TRL's unpaired rows: the best answer with label true, and the worst with label false."""
    if _has_pair(survivor):
        for answer, label in (("chosen", True), ("rejected", False)):
            yield {
                "prompt": [_turn("user", survivor["prompt"])],
                "completion": [_turn("assistant", survivor[answer])],
                "label": label,
                **_columns(survivor, "prompt_id", "source", "licence"),
            }


def _prompts(survivor: _Row) -> Iterator[_Row]:
    """Yields the prompt alone; a file of these rows can be the pool of another run."""
    yield _columns(survivor, "prompt", "prompt_id", "generation", "operator", "source", "licence")


def _function(loaded: object) -> _Exporter:
    """Returns what an entry point gave, which must be callable."""
    if not callable(loaded):
        raise TypeError(f"expected a function, found {type(loaded).__name__}")
    return loaded


EXPORTERS = Registry[_Exporter](
    "fittest.exporters",
    "exporter",
    {"trl-preference": _trl_preference, "trl-sft": _trl_sft, "kto": _kto, "prompts": _prompts},
    accept=_function,
)
"""Unlike the kinds of other groups, an exporter is the function itself: it has no table in a configuration."""


def pair_rows(survivors: pl.DataFrame) -> Iterator[_Row]:
    """Yields the rows of pairs.jsonl, in the order of the table."""
    for survivor in survivors.iter_rows(named=True):
        yield from _trl_preference(survivor)


def export(folder: Path, *, to: str, out: Path) -> _ExportResult:
    """Writes the survivors of a run or a filter in a training format, with a data card.

    Args:
        folder: the folder that holds survivors.parquet.
        to: the name of an exporter, one of ours or of the entry-point group `fittest.exporters`.
        out: the file; it is Parquet if its name ends in .parquet, and JSON lines otherwise. The card is
            `STEM.card.md` beside it.

    Raises:
        FittestError: the exporter is unknown, the survivors cannot be read, or the file cannot be written.
    """
    if to not in EXPORTERS:
        raise FittestError(_no_exporter(to))
    exporter = EXPORTERS[to]
    survivors = read_survivors(folder)
    groups = [list(exporter(survivor)) for survivor in survivors.iter_rows(named=True)]
    rows = list(chain.from_iterable(groups))
    skipped = sum(not group for group in groups)
    if out.suffix == ".parquet":
        write_parquet(out, _frame(rows))
    else:
        write_text(out, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    card = out.with_name(f"{out.stem}.card.md")
    write_text(
        card, data_card(folder, survivors, [f"{out.name}: {len(rows)} rows for {to}, {skipped} survivors left out"])
    )
    return _ExportResult(out, card, len(rows), skipped)


def _no_exporter(name: str) -> str:
    nearest = near(name, EXPORTERS.names())
    hint = "" if nearest is None else f"did you mean {nearest!r}? "
    return f"no exporter {name!r}; {hint}the known are {', '.join(EXPORTERS.names())}"


def _frame(rows: list[_Row]) -> pl.DataFrame:
    # a licence column without one licence is still a column of text
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(pl.Null).cast(pl.String))


def _has_pair(survivor: _Row) -> bool:
    chosen, rejected = survivor["chosen"], survivor["rejected"]
    return chosen is not None and rejected is not None and chosen != rejected


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _columns(survivor: _Row, *names: str) -> _Row:
    return {name: survivor[name] for name in names}
