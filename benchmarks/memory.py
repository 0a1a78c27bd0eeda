"""Measures the peak memory of a run whose responses alone are a third of a gigabyte.

    python benchmarks/memory.py

A run of its own process draws 16 responses of 1,000 characters for each of 20,000 prompts. Engine and reward are null
ones, and the embedder counts hashes, so that the memory is that of fittest: the queue, the journal, the prompts and
the tables. The program exits with status 1 when the peak is 1 GiB or more, or when a table lacks a response.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import polars as pl

from fittest import runs
from fittest.evo.backends.null import Null
from fittest.evo.records import Completion, Request
from fittest.runs.config import parse_config

BOUND_MIB = 1024
CHARACTERS = 1000


async def long_answer(self: Null, request: Request) -> Completion:
    """Answers with text that differs from request to request and does not compress to nothing."""
    text = hashlib.shake_256(f"{request.user_text}\0{request.seed}".encode()).hexdigest(CHARACTERS // 2)
    return Completion(text, "stop", request.user_text.count(" ") + 1, CHARACTERS // 4)


def write_pool(path: Path, prompts: int) -> None:
    """Writes a pool of prompts that differ."""
    rows = ({"prompt": f"Explain in plain words what the number {number} is good for."} for number in range(prompts))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evolve(out: Path, prompts: int, n: int, generations: int) -> None:
    """Does the run, and prints its peak memory in MiB."""
    tables: dict[str, Any] = {
        "run": {"seed": 1, "generations": generations},
        "pool": {"path": str(out.parent / "pool.jsonl")},
        "engine": {"kind": "null", "slots": 64, "sampling": {"n": n}},
        "reward": {"kind": "null"},
        "selection": {"race_round": 0},
        "diversity": {"embedder": "hash", "device": "cpu"},
    }
    Null.sample = long_answer  # type: ignore[method-assign]
    runs.run(parse_config(tables), out)
    click.echo(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@click.command()
@click.option("--prompts", default=20_000, show_default=True)
@click.option("-n", default=16, show_default=True, help="Responses per prompt.")
@click.option("--generations", default=0, show_default=True, help="Generations of 256 offspring.")
@click.option("--in", "out", type=click.Path(path_type=Path), hidden=True)
def main(prompts: int, n: int, generations: int, out: Path | None) -> None:
    """Measure, print, and exit with status 1 when the bound is missed."""
    if out is not None:
        evolve(out, prompts, n, generations)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_pool(Path(folder) / "pool.jsonl", prompts)
        began = time.monotonic()
        sizes = ("--prompts", prompts, "-n", n, "--generations", generations)
        program = [sys.executable, __file__, "--in", f"{folder}/run", *map(str, sizes)]
        peak = float(subprocess.check_output(program, text=True))
        seconds = time.monotonic() - began
        sealed = sorted(Path(folder, "run", "responses").glob("*.parquet"))
        rows = pl.scan_parquet(sealed).select(pl.len()).collect().item() if sealed else 0
        size = sum(path.stat().st_size for path in sealed) / 2**20
    click.echo(f"{prompts} prompts × {n} responses of {CHARACTERS} characters: {seconds:.0f} s")
    click.echo(f"responses/: {rows} rows, {size:.0f} MiB")
    click.echo(f"peak memory: {peak:.0f} MiB (bound {BOUND_MIB})")
    sys.exit(int(peak >= BOUND_MIB or rows < prompts * n))


if __name__ == "__main__":
    main()
