"""`fittest export`: writes survivors in a form that trainers read."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--to",
    "form",
    required=True,
    metavar="FORM",
    help="trl-preference, trl-sft, kto, prompts, a plug-in, or hub:owner/name.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="A .parquet file; any other name becomes JSON lines. Not for a hub."
)
@click.option("--public", is_flag=True, help="Let everybody read what is published on a hub.")
def command(folder: Path, form: str, out: Path | None, public: bool) -> None:
    """Write the survivors of DIR, a run's or a filter's folder, to a file, with a data card beside it.

    With --to hub:owner/name, pairs, prompts and responses are published as one data set instead.
    """
    if form.startswith("hub:") and out is None:
        from fittest.runs.output.hub import publish

        click.echo(publish(folder, form, public=public))
        return
    if out is None or public or form.startswith("hub:"):
        raise click.UsageError("--to hub:owner/name takes no --out; every other form needs --out, and no --public")
    from fittest.runs.output.export import export

    result = export(folder, to=form, out=out)
    skipped = f", {result.skipped} survivors gave no row" if result.skipped else ""
    click.echo(f"{result.rows} rows in {result.out}{skipped}; data card in {result.card}")
