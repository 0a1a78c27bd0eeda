"""`fittest doctor`: says what this machine has, or what a configuration needs of it, and what to do about the rest."""

from __future__ import annotations

from pathlib import Path

import click

from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say


@click.command("doctor")
@click.argument("config", type=PATH, required=False)
@click.option("--out", type=PATH, help="The folder that a run would write to.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a key; repeatable.")
def command(config: Path | None, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Look at Python, packages, driver, device, models, engine, embedder, plug-ins and disks.

    With CONFIG, try out what it needs: its engine gives one token, its reward model scores one pair, its embedder
    embeds one text. The exit status is 0 when everything that is needed works.
    """
    from fittest.evo.errors import FittestError
    from fittest.runs.preflight.doctor import examine

    if overrides and config is None:
        raise FittestError("--set overrides a key of a configuration: fittest doctor CONFIG --set …")
    checked = None
    if config is not None:
        from fittest.runs.config.file import load_config

        checked = load_config(config / "run.toml" if config.is_dir() else config, overrides)
    marks = {True: "ok     ", False: "BROKEN ", None: "missing"}
    broken = 0
    for finding in examine(checked, out):
        say(f"{marks[finding.ok]} {finding.name:<32} {finding.detail}")
        if finding.remedy:
            say(f"{'':<40} → {finding.remedy}")
        broken += finding.ok is False
    needed = "this machine" if config is None else str(config)
    say(f"{needed}: {f'{broken} broken' if broken else 'nothing is broken'}")
    if broken:
        raise SystemExit(1)
