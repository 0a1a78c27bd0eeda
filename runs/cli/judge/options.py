"""Declares the options that the steps of `fittest judge` share: the judge's configuration and the output folder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fittest.runs.cli.paths import PATH

out_option = click.option("--out", type=PATH, required=True, help="Folder for what is written.")
prompt_column_option = click.option("--prompt-column", help="Column of the instructions.  [default: the usual names]")
limit_option = click.option("--limit", type=click.IntRange(min=1), help="Use only this many, from the first.")

likelihood_option = click.option(
    "--likelihood",
    is_flag=True,
    help="Take the likelier verdict, with no reasoning before it; needs engine kind transformers.",
)
reward_option = click.option(
    "--reward", metavar="head|MODEL", help="Judge by a reward: the embedded head, or a Hugging Face classifier."
)


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options --config and --set; the command gets `config`, a `JudgeConfig`."""

    @click.option(
        "--config",
        "config_file",
        type=PATH,
        help="judge.toml: [engine] as in run.toml, [judge], [answers], [labels], [train].  [default: embedded model]",
    )
    @click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Set one key; repeatable.")
    @functools.wraps(command)
    def with_config(config_file: Path | None, overrides: tuple[str, ...], **options: Any) -> None:
        from fittest.runs.judge.config import load_judge_config

        command(config=load_judge_config(config_file, overrides), **options)

    return with_config
