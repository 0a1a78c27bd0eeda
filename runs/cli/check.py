"""`fittest check`: says whether a configuration is right, and whether all that it needs is there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from fittest.runs.cli.paths import PATH
from fittest.runs.cli.words import counted
from fittest.runs.terminal import say


@click.command("check")
@click.argument("config", type=PATH, metavar="CONFIG|DIR")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a key; repeatable.")
@click.option("--deep", is_flag=True, help="Read every row that the run in DIR has kept, and every sealed table.")
def command(config: Path, overrides: tuple[str, ...], deep: bool) -> None:
    """Read CONFIG, its pool and its models, and say what a run would do; a server is asked for one token.

    With --deep, say whether everything that the run in DIR has on the disk is as it was written.
    """
    if deep:
        _check_deeply(config)
        return
    if config.is_dir():
        config = config / "run.toml"
    from fittest.runs.config.file import load_config
    from fittest.runs.parts.assembly import parts_of
    from fittest.runs.preflight.roles import readiness

    checked = load_config(config, overrides)
    parts = parts_of(checked)
    ready = asyncio.run(readiness(checked, parts.engines, parts.reward, parts.audit))
    for role, section in checked.engines.items():
        if section.servers:
            say(f"servers of the {role}: {', '.join(section.servers)}")
    for name, reward in checked.rewards.items():
        if reward.servers:
            say(f"servers of the {name}: {', '.join(reward.servers)}")
    for line in ready.lines:
        say(line)
    pool, n = len(parts.pool.prompts), checked.engine.sampling.n
    offspring = checked.run.generations * checked.operators.offspring
    for warning in [*parts.pool.warnings, *parts.selection.warnings]:
        say(f"warning: {warning}")
    for name, fingerprint in parts.fingerprints.items():
        say(f"{name}: {fingerprint}")
    say(
        f"{config} is right: {counted(pool, 'human prompt')}, {counted(checked.run.generations, 'generation')} of"
        f" {counted(checked.operators.offspring, 'proposal')}, {counted(n, 'response')} each: at most"
        f" {counted((pool + offspring) * n, 'rollout')} of up to"
        f" {counted(checked.engine.sampling.max_tokens, 'token')}"
    )


def _check_deeply(folder: Path) -> None:
    from fittest.runs.output.deep_check import deep_check

    checked = deep_check(folder)
    say(*checked.read)
    say(*(f"fittest: {line}" for line in checked.damaged), err=True)
    if checked.damaged:
        raise SystemExit(2)
    say(f"{folder} is as it was written")
