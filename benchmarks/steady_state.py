"""Compares steady-state with generational mode: both do the same evolution on the same simulated engine, in turn.

    python benchmarks/steady_state.py

`simulated_engine.py slots` writes, answers and judges over HTTP, 16 requests at a time; a judge of one vote is the
reward. There are a pool of 64 prompts and three generations of 32 offspring, for each of two seeds, in both modes.

The barrier loss of a generation is the slot time that stands idle from the last moment at which all slots were busy
before the next generation's first proposal is sent, until it is sent, divided by the slots. It is read from the
journal in the same way for both modes; a generation there is a row of as many proposals as it has offspring.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
from simulated_engine import SLOTS, SimulatedEngine, simulated_engine

from fittest import runs
from fittest.runs.config import parse_config
from fittest.runs.output.journal import SqliteJournal

MODES = ("generational", "steady-state")
POOL, GENERATIONS, OFFSPRING = 64, 3, 32


@dataclass(frozen=True)
class Course:
    """Holds the wall seconds of one run, its idle fraction, the seconds lost at each barrier, and its results."""

    seconds: float
    idle: float
    losses: Sequence[float]
    requests: int
    survivors: int


def evolve(engine: SimulatedEngine, mode: str, seed: int) -> Course:
    """Do a whole run in a folder of its own."""
    tables: dict[str, Any] = {
        "run": {"seed": seed, "generations": GENERATIONS, "mode": mode},
        "pool": {"path": "builtin:starter", "limit": POOL},
        "engine": {
            "kind": "openai",
            "model": "simulated",
            "base_url": engine.url,
            "slots": SLOTS,
            "sampling": {"n": 4},
        },
        "reward": {"kind": "judge", "votes": 1},
        "selection": {"quantile": 0.3},
        "operators": {"offspring": OFFSPRING, "shots": 4},
        "diversity": {"embedder": "hash", "device": "cpu"},
    }
    engine.forget()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = runs.run(parse_config(tables), folder)
        seconds = time.monotonic() - began
        losses = barrier_losses(Path(folder))
        survivors = result.summary["survivors"]
    measured = engine.measured()
    assert measured.proposals == GENERATIONS * OFFSPRING
    return Course(
        seconds, measured.idle, losses, measured.answers + measured.judgments + measured.proposals, survivors
    )


def barrier_losses(folder: Path) -> list[float]:
    """Returns the seconds of all slots that were lost before each generation's first proposal."""
    path = folder / "journal.sqlite"
    journal = SqliteJournal(path, read_only=True)
    changes = [(at, change) for _, at, change in journal.in_flight_changes()]
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT at FROM issued WHERE stage = 'proposal' ORDER BY at")
        proposed = [at for (at,) in rows]
    return [idle_before(proposed[number * OFFSPRING], changes) for number in range(GENERATIONS)]


def idle_before(end: float, changes: Sequence[tuple[float, int]]) -> float:
    """Returns the idle slot time since all slots were last busy, per slot."""
    lost, in_flight, previous = 0.0, 0, 0.0
    for at, change in changes:
        at = min(at, end)
        lost = 0.0 if in_flight >= SLOTS else lost + (at - previous) * (SLOTS - in_flight)
        if at == end:
            break
        in_flight, previous = in_flight + change, at
    return lost / SLOTS


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Stretches all times of the engine.")
@click.option("--seeds", default=2, show_default=True, help="Runs in each mode.")
def main(scale: float, seeds: int) -> None:
    """Measure both modes, and print the figures."""
    found: dict[str, list[Course]] = {mode: [] for mode in MODES}
    with simulated_engine("slots", scale=scale) as engine:
        for seed in range(1, seeds + 1):
            for mode in MODES if seed % 2 else reversed(MODES):
                found[mode].append(evolve(engine, mode, seed))
            for mode in MODES:
                course = found[mode][-1]
                click.echo(
                    f"seed {seed}, {mode}: {course.seconds:.1f} s, idle {course.idle:.3f}, barrier loss"
                    f" {' '.join(f'{loss:.2f}' for loss in course.losses)} s, {course.requests} requests,"
                    f" {course.survivors} survivors"
                )
    pairs = list(zip(*found.values(), strict=True))
    ratios = [generational.seconds / steady.seconds for generational, steady in pairs]
    click.echo(f"generational over steady-state: {median(ratios):.2f} of the wall-clock time")
    for mode in MODES:
        idle = median(course.idle for course in found[mode])
        loss = fmean(loss for course in found[mode] for loss in course.losses)
        share = sum(sum(course.losses) for course in found[mode]) / sum(course.seconds for course in found[mode])
        click.echo(f"{mode}: idle {idle:.3f}, barrier loss {loss:.2f} s per generation, {share:.3f} of all time")


if __name__ == "__main__":
    main()
