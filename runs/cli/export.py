"""`fittest export`: writes survivors in a form that trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fittest.fitness.reference.pairs import ReferenceModel


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--to",
    "form",
    required=True,
    metavar="FORM",
    help="trl-preference, trl-sft, kto, reward-pairs, grpo, verl, prime-rl, prompts, responses, or a plug-in.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A .parquet file; any other name becomes JSON lines."
)
@click.option(
    "--drop-truncated/--keep-truncated",
    default=None,
    help="Leave out survivors whose chosen answer was cut at max_tokens.  [default: drop them from formats of pairs]",
)
@click.option("--min-gap", type=float, help="Least reward gap of a pair.")
@click.option(
    "--pairing",
    metavar="NAME",
    help="Choose the pairs anew from responses/: best-worst, best-random or best-bottom:FRACTION.",
)
@click.option(
    "--split",
    type=float,
    metavar="SHARE",
    help="Write STEM-train and STEM-test; the share for testing holds whole families of prompts.",
)
@click.option("--with-reference", is_flag=True, help="Add the log-probabilities of both answers under the policy.")
def command(
    folder: Path,
    form: str,
    out: Path,
    drop_truncated: bool | None,
    min_gap: float | None,
    pairing: str | None,
    split: float | None,
    with_reference: bool,
) -> None:
    """Write the survivors of DIR, a run's or a filter's folder, to a file, with a data card beside it."""
    from fittest.runs.output.export import export, reasons_of
    from fittest.runs.output.export_options import ExportOptions

    def reference() -> ReferenceModel:
        from fittest.runs.parts.reference import reference_of

        return reference_of(folder)

    options = ExportOptions(
        drop_truncated=drop_truncated,
        min_gap=min_gap,
        pairing=pairing,
        split=split,
        reference=reference if with_reference else None,
    )
    result = export(folder, to=form, out=out, options=options)
    for note in result.notes:
        click.echo(note)
    skipped = f", {result.skipped} survivors gave no row ({reasons_of(result.left_out)})" if result.skipped else ""
    written = " and ".join(f"{rows} rows in {path}" for path, rows in result.files)
    click.echo(f"{written}{skipped}; data card in {result.card}")
