"""Measures time and memory of `fittest filter` on one million responses, 64 per prompt.

    python benchmarks/filter_million.py

The table is generated; the verb runs in a process of its own, start included. The program exits with status 1 when it
takes 5 s or 2 GiB, or when its survivors differ from those of plain NumPy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
import polars as pl

SECONDS_BOUND = 5.0
GIB_BOUND = 2.0


def generated(responses: int, n: int, characters: int) -> pl.DataFrame:
    """Returns responses of varied length with normal rewards, some of them missing; prompts are in random order."""
    rng = np.random.default_rng(0)
    prompts = responses // n
    letters = "".join(chr(97 + i) for i in rng.integers(0, 26, size=4 * characters))
    starts = rng.integers(0, characters, size=responses)
    lengths = rng.integers(1, 2 * characters, size=responses)
    texts = [letters[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    rewards = rng.normal(size=responses)
    rewards[rng.random(responses) < 0.01] = np.nan
    which = rng.permutation(np.repeat(np.arange(prompts), n))
    names = [f"prompt number {i}: what should be said about it?" for i in range(prompts)]
    return pl.DataFrame({"prompt": [names[i] for i in which.tolist()], "response": texts, "reward": rewards})


def write_generated(path: Path, responses: int, n: int, characters: int) -> None:
    """Writes the generated table."""
    generated(responses, n, characters).write_parquet(path)


def plain_survivors(path: Path) -> set[str]:
    """Returns the survivors of median cuts on all three metrics, found by sorting."""
    found = (
        pl.read_parquet(path)
        .with_columns(length=pl.col("response").str.len_chars())
        .filter(pl.col("reward").is_finite())
    )
    worst = found.sort("reward", maintain_order=True).group_by("prompt", maintain_order=True)
    metrics = worst.agg(
        m1=pl.col("reward").first(), m2=pl.col("length").first(), m3=pl.col("reward").last() - pl.col("reward").first()
    )
    kept = metrics.filter(
        (pl.col("m1") >= np.quantile(metrics["m1"], 0.5))
        & (pl.col("m2") >= np.quantile(metrics["m2"], 0.5))
        & (pl.col("m3") <= np.quantile(metrics["m3"], 0.5))
    )
    return set(kept["prompt"])


@click.command()
@click.option("--responses", default=1_000_000, show_default=True)
@click.option("-n", default=64, show_default=True, help="Responses per prompt.")
@click.option("--characters", default=300, show_default=True, help="Mean length of a response.")
def main(responses: int, n: int, characters: int) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "responses.parquet", Path(folder) / "out"
        # the table is written in a process of its own, since a child's peak memory starts at that of its parent
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(write_generated, source, responses, n, characters).result()
        began = time.perf_counter()
        verb = subprocess.Popen([sys.executable, "-m", "fittest.runs.cli", "filter", str(source), "--out", str(out)])
        _, status, usage = os.wait4(verb.pid, 0)
        seconds, peak = time.perf_counter() - began, usage.ru_maxrss / 2**20
        same = status == 0 and set(pl.read_parquet(out / "survivors.parquet")["prompt"]) == plain_survivors(source)
        size = source.stat().st_size / 2**20
    click.echo(
        f"{responses} responses, {n} to a prompt, {size:.0f} MiB: {seconds:.2f} s (bound {SECONDS_BOUND}),"
        f" peak {peak:.2f} GiB (bound {GIB_BOUND}); survivors {'as by plain NumPy' if same else 'DIFFER'}"
    )
    sys.exit(int(seconds > SECONDS_BOUND or peak > GIB_BOUND or not same))


if __name__ == "__main__":
    main()
