"""Writes survivors as training data, and a data card beside each file; the formats are in `runs.output.exporters`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fittest.evo.errors import FittestError
from fittest.evo.records import Message
from fittest.fitness.pairing import parse_pairing
from fittest.fitness.reference.pairs import AnsweredPair
from fittest.runs.config.section import near
from fittest.runs.output.atomic import write_parquet, write_text
from fittest.runs.output.card import data_card
from fittest.runs.output.export_options import ExportOptions
from fittest.runs.output.exported_survivors import Sieve, complete_survivors, exported_survivors, run_facts
from fittest.runs.output.exporters import EXPORTERS, Exporter, Row, trl_preference
from fittest.runs.output.places import refuse_files
from fittest.runs.output.split import split_by_family
from fittest.runs.output.together import replaced_together

if TYPE_CHECKING:
    from fittest.fitness.reference.pairs import ReferenceModel


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Names the files and the card that an export wrote.

    Attributes:
        files: each file with the number of its rows; with a split, the one for training comes first.
        card: the data card.
        left_out: how many survivors gave no row, by reason.
        notes: what else a reader should know.
    """

    files: tuple[tuple[Path, int], ...]
    card: Path
    left_out: dict[str, int]
    notes: tuple[str, ...]

    @property
    def out(self) -> Path:
        """Returns the first file."""
        return self.files[0][0]

    @property
    def rows(self) -> int:
        """Returns the number of rows of all files."""
        return sum(rows for _, rows in self.files)

    @property
    def skipped(self) -> int:
        """Returns the number of survivors that gave no row."""
        return sum(self.left_out.values())


def pair_rows(survivors: pl.DataFrame, system: str | None = None) -> Iterator[Row]:
    """Yields the rows of pairs.jsonl, in the order of the table.

    Args:
        survivors: a survivors.parquet.
        system: the system prompt of the run.
    """
    for survivor in complete_survivors(survivors, system).iter_rows(named=True):
        yield from trl_preference(survivor)


def export(folder: Path, *, to: str, out: Path, options: ExportOptions | None = None) -> ExportResult:
    """Writes the survivors of a run or a filter in a training format, with a data card.

    Args:
        folder: the folder that holds survivors.parquet.
        to: the name of an exporter, one of ours or of the entry-point group `fittest.exporters`.
        out: the file; it is Parquet if its name ends in .parquet, and JSON lines otherwise. The card is `STEM.card.md`
            beside it, or `NAME.card.md` if the former is the card of another export. With a split, `STEM-train` and
            `STEM-test` are written in its place.
        options: what is left out, and how it is arranged.

    Raises:
        FittestError: the exporter is unknown or cannot use an option, the survivors cannot be read, or a file cannot
            be written.
    """
    if to not in EXPORTERS:
        raise FittestError(_no_exporter(to))
    exporter, options = EXPORTERS[to], options or ExportOptions()
    options.refuse_unused(to, exporter)
    names = _names(out, divided=options.split is not None)
    card = _card_beside(out, names)
    refuse_files([*(out.parent / name for name in names), card], inputs=[folder])
    with replaced_together(out.parent) as new:
        facts = run_facts(folder)
        pairing = None if options.pairing is None else parse_pairing(options.pairing)
        exported = exported_survivors(folder, facts, exporter, pairing)
        drop = exporter.paired if options.drop_truncated is None else options.drop_truncated
        kept, left_out = Sieve(drop, options.min_gap).sifted(exported.survivors, exporter)
        notes = list(_notes_on_rewards(kept))
        if options.reference is not None:
            kept = _with_reference(kept, options.reference(), left_out)
        if options.split is not None:
            split = split_by_family(folder, kept, options.split, facts.seed)
            side = pl.when(pl.Series(split.test)).then(pl.lit("test")).otherwise(pl.lit("train"))
            kept = kept.with_columns(split=side)
            notes += split.notes
        made = _made(exporter, _by_response(kept, exported.responses, left_out), left_out)
        rows = made.written(new, names)
        files = tuple((out.parent / name, count) for name, count in zip(names, rows, strict=True))
        lines = [*_counts(files, to, left_out), *notes]
        write_text(new / card.name, data_card(folder, exported.survivors, lines))
    return ExportResult(files, card, left_out, tuple(notes))


def _names(out: Path, *, divided: bool) -> tuple[str, ...]:
    """Returns the name of the one file, or of those for training and for testing."""
    return tuple(f"{out.stem}-{side}{out.suffix}" for side in ("train", "test")) if divided else (out.name,)


def _card_beside(out: Path, names: Sequence[str]) -> Path:
    """Returns the path of the card: STEM.card.md, unless that is the card of another export."""
    card = out.parent / f"{out.stem}.card.md"
    try:
        # a name may be written with backslashes in it, so that Markdown takes it as it is
        said = card.read_text(encoding="utf-8", errors="replace").replace("\\", "") if card.is_file() else None
    except (OSError, ValueError):
        said = None
    ours = said is None or any(f"{name}:" in said for name in names)
    return card if ours else out.parent / f"{out.name}.card.md"


@dataclass(frozen=True, slots=True)
class _Made:
    """Holds all rows of an export, as a table or one by one, and for each its side of the split."""

    rows: pl.DataFrame | list[Row]
    sides: pl.Series

    def written(self, folder: Path, names: Sequence[str]) -> list[int]:
        """Writes one file, or one for each side of the split, and returns the number of rows of each."""
        wanted = [pl.repeat(True, len(self.sides), eager=True)]
        if len(names) > 1:
            wanted = [self.sides == side for side in ("train", "test")]
        return [self._write(folder / name, rows) for name, rows in zip(names, wanted, strict=True)]

    def _write(self, path: Path, wanted: pl.Series) -> int:
        if path.suffix == ".parquet":
            # a frame of all rows, so that both sides have the same types
            write_parquet(path, self._frame().filter(wanted) if len(self.sides) else self._frame())
        elif isinstance(self.rows, pl.DataFrame):
            write_text(path, self.rows.filter(wanted).write_ndjson())
        else:
            there = zip(self.rows, wanted, strict=True)
            write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row, here in there if here))
        return int(wanted.sum())

    def _frame(self) -> pl.DataFrame:
        if isinstance(self.rows, pl.DataFrame):
            return self.rows
        frame = pl.DataFrame(self.rows, infer_schema_length=None)
        return frame.cast({name: _with_text(dtype) for name, dtype in frame.schema.items()})


def _with_text(dtype: Any) -> Any:
    """Returns a type with text for null: a licence column without one licence is still a column of text."""
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: _with_text(field.dtype) for field in dtype.fields})
    if isinstance(dtype, pl.List):
        return pl.List(_with_text(dtype.inner))
    return pl.String() if dtype == pl.Null else dtype


def _made(exporter: Exporter, items: pl.DataFrame, left_out: dict[str, int]) -> _Made:
    """Makes the rows, and counts the survivors that gave none."""
    if exporter.rows is None:
        return _Made(items.select(exporter.columns), items["split"])
    rows: list[Row] = []
    sides: list[str] = []
    for item in items.iter_rows(named=True):
        own = list(exporter.rows(item))
        rows += own
        sides += [item["split"]] * len(own)
        if not own:
            left_out["the format has no row for it"] = left_out.get("the format has no row for it", 0) + 1
    return _Made(rows, pl.Series(sides, dtype=pl.String))


def _by_response(kept: pl.DataFrame, responses: pl.DataFrame | None, left_out: dict[str, int]) -> pl.DataFrame:
    """Returns the survivors, or if the format is made of responses those, with the columns of their survivor."""
    if responses is None:
        return kept
    if without := kept.join(responses, on="index", how="anti").height:
        left_out["no response is on record"] = without
    own = [name for name in kept.columns if name not in responses.columns or name == "index"]
    return responses.join(kept.select(own), on="index", how="inner", maintain_order="left")


def _with_reference(kept: pl.DataFrame, model: ReferenceModel, left_out: dict[str, int]) -> pl.DataFrame:
    """Adds what the model says of both answers; a pair that it cannot read whole is left out."""
    pairs = [
        AnsweredPair(
            (*(() if system is None else (Message("system", system),)), Message("user", prompt)), chosen, rejected
        )
        for system, prompt, chosen, rejected in kept.select("system", "prompt", "chosen", "rejected").iter_rows()
    ]
    found = model.log_probabilities(pairs)
    if unread := sum(numbers is None for numbers in found):
        # a trainer takes no null there
        left_out["too long for the model that gives log-probabilities"] = unread
    return kept.with_columns(
        ref_chosen_logps=pl.Series([numbers and numbers.chosen for numbers in found], dtype=pl.Float64),
        ref_rejected_logps=pl.Series([numbers and numbers.rejected for numbers in found], dtype=pl.Float64),
    ).drop_nulls("ref_chosen_logps")


def _notes_on_rewards(kept: pl.DataFrame) -> Iterator[str]:
    judges = kept["reward_id"].drop_nulls().n_unique()
    if judges > 1:
        yield f"the rewards are those of {judges} judges and do not compare; reward_id names the judge of each row"


def _counts(files: tuple[tuple[Path, int], ...], to: str, left_out: dict[str, int]) -> list[str]:
    skipped = sum(left_out.values())
    reasons = f" ({reasons_of(left_out)})" if left_out else ""
    return [f"{path.name}: {rows} rows for {to}, {skipped} survivors left out{reasons}" for path, rows in files]


def reasons_of(left_out: dict[str, int]) -> str:
    """Returns why survivors were left out, in words."""
    return "; ".join(f"{count}: {reason}" for reason, count in left_out.items())


def _no_exporter(name: str) -> str:
    nearest = near(name, EXPORTERS.names())
    hint = "" if nearest is None else f"did you mean {nearest!r}? "
    return f"no exporter {name!r}; {hint}the known are {', '.join(EXPORTERS.names())}"
