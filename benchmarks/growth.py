"""Measures what one offspring costs beside an archive of a thousand, ten thousand and a hundred thousand prompts.

    python benchmarks/growth.py

A whole run on the null engine, in a folder of its own, begins with a pool of that size; the CPU time of its offspring
is taken between the first finished generation of offspring and the last. It holds everything that a run does: gates,
proposals, two answers to each prompt, diversity, trimming, journal and tables. The program exits with status 1 when an
offspring beside the largest archive costs more than 1.5 times what it costs beside the smallest.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from fittest import runs
from fittest.evo.backends.null import WORDS
from fittest.fitness.diversity import vendi_score
from fittest.runs.config import parse_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deap import base

MODES = ("generational", "steady-state")
BOUND = 1.5


def pool_file(folder: Path, size: int) -> Path:
    """Writes a pool of tasks of 8 to 24 words, such as the null engine proposes, and returns its path."""
    rng = random.Random(size)
    texts = {f"{' '.join(rng.choices(WORDS, k=rng.randint(8, 24))).capitalize()}.": None for _ in range(size)}
    path = folder / "pool.parquet"
    pl.DataFrame({"prompt": list(texts)}).write_parquet(path)
    return path


def cost(mode: str, size: int, *, offspring: int, generations: int) -> float:
    """Returns the CPU milliseconds of one offspring beside an archive of this size."""
    finished: list[float] = []

    def watch(toolbox: base.Toolbox) -> None:
        # the population is measured once in each generation, when all else is done
        def vendi(embeddings: Any) -> float:
            finished.append(time.process_time())
            return vendi_score(embeddings)

        toolbox.register("vendi", vendi)

    with tempfile.TemporaryDirectory() as folder:
        tables: dict[str, Any] = {
            "run": {"seed": 1, "generations": generations, "mode": mode},
            "pool": {"path": str(pool_file(Path(folder), size))},
            "engine": {"kind": "null", "slots": 16, "sampling": {"n": 2, "max_tokens": 64}},
            "reward": {"kind": "null"},
            "selection": {"race_round": 0},
            "gates": {"languages": []},
            "operators": {"offspring": offspring},
            "diversity": {"embedder": "hash", "device": "cpu"},
        }
        runs.run(parse_config(tables), Path(folder) / "run", customise=watch)
    # the first one begins while the pool is still at work in a run without barriers
    return (finished[-1] - finished[1]) / ((len(finished) - 2) * offspring) * 1e3


@click.command()
@click.option("--sizes", default="1000,10000,100000", show_default=True, help="Prompts of the archive.")
@click.option("--offspring", default=256, show_default=True, help="Offspring of a generation.")
@click.option("--generations", default=4, show_default=True)
@click.option("--mode", "modes", multiple=True, default=MODES, type=click.Choice(MODES))
def main(sizes: str, offspring: int, generations: int, modes: Sequence[str]) -> None:
    """Measure, print, and exit with status 1 when the bound is missed."""
    missed = False
    for mode in modes:
        costs: list[float] = []
        for size in map(int, sizes.split(",")):
            costs.append(cost(mode, size, offspring=offspring, generations=generations))
            ratio = costs[-1] / costs[0]
            click.echo(f"{mode}: archive of {size}, {costs[-1]:.2f} ms CPU an offspring, {ratio:.2f} of the first")
        missed |= costs[-1] > BOUND * costs[0]
    click.echo(f"bound: {BOUND} of the first" + (", MISSED" if missed else ""))
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
