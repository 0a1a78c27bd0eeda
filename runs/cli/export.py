"""`fittest export`: writes survivors in a form that trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.fitness.reference.pairs import ReferenceModel


@click.command("export")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option(
    "--to",
    "form",
    required=True,
    metavar="FORM",
    help="trl-preference, trl-sft, kto, reward-pairs, grpo, verl, prime-rl, prompts, responses, a plug-in, or"
    " hub:owner/name.",
)
@click.option("--out", type=PATH, help="A .parquet file; any other name becomes JSON lines. Not for a hub.")
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
@click.option("--public", is_flag=True, help="Let everybody read what is published on a hub.")
def command(folder: Path, form: str, out: Path | None, public: bool, with_reference: bool, **options: Any) -> None:
    """Write the survivors of DIR, a run's or a filter's folder, to a file, with a data card beside it.

    With --to hub:owner/name, pairs, prompts and responses are published as one data set instead.
    """
    if form.startswith("hub:"):
        _publish(folder, form, public)
        return
    if out is None or public:
        raise click.UsageError(f"--to {form} " + ("needs --out FILE" if out is None else "takes no --public"))
    from fittest.runs.output.export import export, reasons_of
    from fittest.runs.output.export_options import ExportOptions

    def reference() -> ReferenceModel:
        from fittest.runs.parts.reference import reference_of

        return reference_of(folder)

    chosen = ExportOptions(**options, reference=reference if with_reference else None)
    result = export(folder, to=form, out=out, options=chosen)
    for note in result.notes:
        say(note)
    skipped = f", {result.skipped} survivors gave no row ({reasons_of(result.left_out)})" if result.skipped else ""
    written = " and ".join(f"{rows} rows in {path}" for path, rows in result.files)
    say(f"{written}{skipped}; data card in {result.card}")


def _publish(folder: Path, to: str, public: bool) -> None:
    """Publishes the folder; an option that is about a file would be silently ignored, and is refused."""
    from fittest.runs.output.hub import publish

    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in ("folder", "form", "public"):
            raise click.UsageError(f"--to hub:owner/name takes no {option.opts[0]}")
    say(publish(folder, to, public=public))
