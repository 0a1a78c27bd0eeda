"""Measures how long `fittest ablate` takes on real responses, with and without filters that ask the embedded model.

    python benchmarks/ablate.py

The data is `tulu2_bon16.parquet` from `../shared/data` or the given folder: all of it with no model, then 100 prompts
with perplexity and IFD by SmolLM2-135M. The verb runs in a process of its own, start and loading included. Exits with
status 1 when a bound is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import polars as pl

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PLAIN_BOUND = 60.0
MODEL_BOUND = 600.0
PROMPTS = 100


def seconds(source: Path, out: Path, *options: str) -> float:
    """Returns the wall time of the verb, in seconds."""
    columns = ("--prompt-column", "instruction", "--response-column", "output")
    command = [sys.executable, "-m", "fittest.runs.cli", "ablate", str(source), *columns, *options, "--out", str(out)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, help="Folder of the real responses.")
def main(data: Path) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    source, missed = data / "responses" / "tulu2_bon16.parquet", False
    runs = {
        PLAIN_BOUND: ("all prompts, no model", ()),
        MODEL_BOUND: (
            f"{PROMPTS} prompts, perplexity and IFD by SmolLM2-135M",
            ("--limit", str(PROMPTS), "--with", "perplexity", "--with", "ifd"),
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        for bound, (what, options) in runs.items():
            out = Path(folder) / str(bound)
            took = seconds(source, out, *options)
            filters = pl.read_parquet(out / "ablation.parquet").height
            click.echo(f"{what}: {filters} filters in {took:.1f} s (bound {bound:.0f})")
            missed |= took > bound
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
