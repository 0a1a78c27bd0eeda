"""Measures how soon fittest sends its first request, and its memory, with no embedder and no reward model.

    python benchmarks/footprint.py

`feeding_alone.py` runs in a fresh process against `simulated_engine.py null`, five times; the earliest first request
counts, since other programs can only delay it. The program exits with status 1 when it comes later, or memory peaks
higher, than the bounds, or when torch or scikit-learn was imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
from simulated_engine import simulated_engine

ROUNDS = 5
REQUESTS = 2000
FIRST_REQUEST_SECONDS = 1.5
PEAK_MIB = 200
PROGRAM = Path(__file__).with_name("feeding_alone.py")


@click.command()
def main() -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    delays, peaks, imported = [], [], set()
    with simulated_engine("null") as engine:
        for _ in range(ROUNDS):
            engine.forget()
            began = time.monotonic()
            said = subprocess.check_output([sys.executable, PROGRAM, engine.url, str(REQUESTS)], text=True)
            measured, found = engine.measured(), json.loads(said)
            assert measured.answers == REQUESTS
            delays.append(measured.began - began)
            peaks.append(found["peak_mib"])
            imported |= set(found["heavy"])
    click.echo("first request after " + ", ".join(f"{delay:.2f} s" for delay in delays))
    click.echo(f"earliest {min(delays):.2f} s from the start of the process (bound {FIRST_REQUEST_SECONDS})")
    click.echo(f"peak memory for {REQUESTS} requests: {max(peaks):.0f} MiB (bound {PEAK_MIB})")
    click.echo(f"heavy libraries imported: {', '.join(sorted(imported)) or 'none'}")
    late, large = min(delays) > FIRST_REQUEST_SECONDS, max(peaks) > PEAK_MIB
    sys.exit(int(late or large or not imported.isdisjoint({"torch", "sklearn"})))


if __name__ == "__main__":
    main()
