"""`fittest demo` runs the main job on the embedded model, with the shipped pool."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say


@click.command("demo")
@click.option("--out", type=PATH, default=Path("demo-run"), show_default=True, help="Run folder.")
def command(out: Path) -> None:
    """Evolve the starter pool on the embedded model; it takes a few minutes on two CPU cores and needs no setup."""
    from fittest.runs.cli.run import evolve
    from fittest.runs.config.file import load_config
    from fittest.runs.models import pull

    for name in ("smollm2-135m", "minilm"):
        say(f"{name}: {pull(name)}")
    text = files("fittest.runs.config").joinpath("demo.toml")
    say(*text.read_text(encoding="utf-8").splitlines(), "")
    # a demo that was interrupted goes on, and a finished one shows its results again
    evolve(load_config(Path(str(text))), out, resume=True)
