"""`fittest judge train` runs the self-taught loop, or trains once on existing judgments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fittest.evo.errors import FittestError
from fittest.runs.cli.judge.options import configured, out_option
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say

if TYPE_CHECKING:
    from fittest.runs.judge.config import JudgeConfig


@click.command("train")
@click.argument("pairs", type=PATH, required=False)
@out_option
@configured
@click.option("--annotated", type=PATH, help="Train once, on the file that annotate wrote, without PAIRS.")
@click.option("--held-out", type=PATH, help="Pairs that measure the judge, and stop its training early.")
@click.option("--force", is_flag=True, help="Draw a verdict for each judgment that has none.")
@click.option("--gguf", is_flag=True, help="Also write each adapter as adapter.gguf, for llama.cpp.")
@click.option("--iterations", type=click.IntRange(min=1), help="Replaces train.iterations.")
def command(
    pairs: Path | None,
    out: Path,
    config: JudgeConfig,
    annotated: Path | None,
    held_out: Path | None,
    force: bool,
    gguf: bool,
    iterations: int | None,
) -> None:
    """Teach a judge on PAIRS: annotate with the judge so far, train from the seed model, again and again.

    The engine must be of kind transformers; its model is the seed. Called again, it goes on where it stopped.
    """
    from fittest.evo.seeds import SeedTree
    from fittest.fitness.judge.annotation import evenly_placed
    from fittest.runs.judge.train import iterate, train_once
    from fittest.runs.sources.pair_file import read_pairs

    if iterations is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"iterations": iterations})})
    outside = () if held_out is None else read_pairs(held_out).pairs
    if (pairs is None) == (annotated is None):
        raise FittestError("give PAIRS to annotate and train on, or --annotated FILE")
    if annotated is not None and (force or iterations is not None):
        raise FittestError("--force and --iterations are for annotating; --annotated trains once on what is there")
    inputs = [file for file in (pairs, held_out) if file is not None]
    if pairs is None:
        trained = train_once(annotated or Path(), outside, config, out, gguf=gguf, inputs=inputs)
        say(f"trained on {trained['examples']} judgments in {trained['steps']} steps")
        say(f"written: {out / 'training.json'}")
        return
    # files of chosen and rejected answers name the chosen one first, and a judge would learn the place
    taught = evenly_placed(read_pairs(pairs).pairs, SeedTree(config.judge.seed))
    summary = iterate(taught, outside, config, out, force=force, gguf=gguf, inputs=inputs)
    for number, figures in enumerate(summary["held_out"]):
        if figures is not None:
            shares = ", ".join(f"{name} {figures[key]:.1f}" for name, key in _SHOWN.items())
            say(f"{f'iteration {number}' if number else 'seed'}: {shares} % of {figures['n']} held-out pairs")
    say(f"written: {out / 'summary.json'}, {out}/iteration-N/")


_SHOWN = {"AB": "ab", "BA": "ba", "mean": "mean", "both": "consistent"}
