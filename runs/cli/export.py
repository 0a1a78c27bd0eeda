"""`fittest export`: writes survivors in a form that trainers read."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--to", "form", required=True, metavar="FORM", help="trl-preference, trl-sft, kto, prompts, or a plug-in."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A .parquet file; any other name becomes JSON lines."
)
def command(folder: Path, form: str, out: Path) -> None:
    """Write the survivors of DIR, a run's or a filter's folder, to a file, with a data card beside it."""
    from fittest.runs.output.export import export

    result = export(folder, to=form, out=out)
    skipped = f", {result.skipped} survivors gave no row" if result.skipped else ""
    click.echo(f"{result.rows} rows in {result.out}{skipped}; data card in {result.card}")
