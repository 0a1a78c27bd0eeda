"""`fittest export`: writes survivors in a form that trainers read."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource


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
    if form.startswith("hub:"):
        _publish(folder, form, public)
        return
    if out is None or public:
        raise click.UsageError(f"--to {form} " + ("needs --out FILE" if out is None else "takes no --public"))
    from fittest.runs.output.export import export

    result = export(folder, to=form, out=out)
    skipped = f", {result.skipped} survivors gave no row" if result.skipped else ""
    click.echo(f"{result.rows} rows in {result.out}{skipped}; data card in {result.card}")


def _publish(folder: Path, to: str, public: bool) -> None:
    """Publishes the folder; an option that is about a file would be silently ignored, and is refused."""
    from fittest.runs.output.hub import publish

    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in ("folder", "form", "public"):
            raise click.UsageError(f"--to hub:owner/name takes no {option.opts[0]}")
    click.echo(publish(folder, to, public=public))
