"""Compares ways to search at equal cost in a world with known truth, where each prompt's real quality is known.

    python benchmarks/strategies.py

The world is that of docs/design/world.md. Every arm has the same pool, landscape and tokens in a seed, and differs in
the settings that `ARMS` names for it. Everything but the model is real. It takes less than ten minutes on two cores.
Each finished piece (some seeds of an arm) is appended to benchmarks/results/strategies.jsonl, and one that is there is
not measured again unless its settings have changed.

With `--tune` the arms are run on seeds that are not reported, where their settings may be tried out.

The program prints a table for each heritability, and exits with status 1 when a promise is missed: the arm of the
defaults leads every other where heritability is 0.2; at most 5 % of the flat experiments claim anything; all arms
spend the same; about a third of the kept are kept again on a fresh draw; the whole takes less than ten minutes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
from paired import Comparison, compared, interval
from threadpoolctl import threadpool_limits
from world_runs import figures, random_prompts, retest

from fittest.evo.world import World
from fittest.runs import parse_config
from fittest.runs.config import kinds

Tables = dict[str, dict[str, Any]]


def merged(*tables: Tables) -> Tables:
    """Returns sections joined key by key, later ones winning."""
    found: Tables = {}
    for table in tables:
        for name, section in table.items():
            found[name] = {**found.get(name, {}), **section}
    return found


# What follows was fixed before any arm was run. Arms may be tuned on TUNING_SEEDS, and are reported on others.

WORLD = {"ruggedness": 2, "noise": 0.6, "empty": 0.02}
"""The world, but for heritability and for the seed, which is that of the run: every seed has a landscape of its own.
At this noise, about a third of the prompts that one draw of five keeps are kept on a fresh draw."""

OUTCOME = "last"
"""The primary outcome: the mean true quality of the last generation. That is `Setup.last` offspring which the stock
breeds when the tokens are spent. They are not evaluated and cost nothing, so no arm gains by how its tokens end."""

FURTHER = {
    "kept": "mean true quality of the kept: as many offspring in each arm, by its own ranking",
    "spread": "mean true standard deviation of rewards of answers to the kept; smaller is better",
    "breadth": "Vendi score of the kept",
    "generations": "finished generations of offspring",
    "tokens": "prompt and completion tokens, those of the pool included",
}
"""What is reported beside it; nothing is claimed of these."""


@dataclass(frozen=True)
class Setup:
    """The size of an experiment.

    Attributes:
        heritability: of the world.
        seeds: those that are reported, one run each in every arm.
        pool: prompts of random words that the runs begin with.
        offspring: of a generation.
        tokens: what each run may spend.
        last: offspring by which the last generation is measured.
        kept: how many offspring are kept.
    """

    heritability: float
    seeds: range
    pool: int = 128
    offspring: int = 12
    tokens: int = 60_000
    last: int = 160
    kept: int = 16


SETUPS = {
    "heritability 0": Setup(0.0, range(40)),
    "heritability 0.2": Setup(0.2, range(64)),
    "heritability 0.5": Setup(0.5, range(40)),
    "flat": Setup(0.0, range(10_000, 10_600), pool=10, offspring=6, tokens=5_000, last=12, kept=3),
}
"""Where nothing is inherited, no arm can breed better prompts than another. The small runs of "flat" make up
`FLAT_EXPERIMENTS`, in each of which every arm has as many seeds of its own."""

TUNING_SEEDS = range(1_000, 1_040)
SETUPS["tuning"] = Setup(0.2, TUNING_SEEDS)
FLAT_EXPERIMENTS = 200

COMMON: Tables = {
    "run": {"mode": "generational", "generations": 1_000, "population": 16},
    "engine": {"kind": "null", "slots": 4, "sampling": {"n": 5, "max_tokens": 256}},
    "reward": {"kind": "null"},
    "selection": {"policy": "quantile", "quantile": 0.5, "confirm": 0, "parents": "uniform"},
    "operators": {"shots": 4, "exemplars": "survivors", "adapt": "none"},
    "archive": {"kind": "none"},
    "gates": {"languages": [], "keywords": []},
    "diversity": {"embedder": "hash", "device": "cpu"},
}
"""The configuration that all arms share."""

ALPHA = 0.05
"""Two-sided, for paired t tests over the seeds, by Holm over all comparisons at one heritability."""

RETEST = (0.28, 0.38)
"""Between which the share of the kept that are kept again on a fresh draw of five must be."""

CONTROLS = {
    "random few-shot": {"run": {"arm": "random-few-shot"}},
    "self-instruct": {"run": {"arm": "self-instruct"}},
    "one-shot": {"run": {"arm": "one-shot"}},
    "best-of-n": {"run": {"arm": "best-of-n"}},
}
"""What breeds without selection, without inheritance, or once: settings that are added to the common ones."""

TODAY: Tables = {}
"""The settings of the defaults before any of what is added below."""

ALONE: dict[str, Tables] = {
    "confirmation": {"selection": {"confirm": 1}},
    "merit": {"selection": {"parents": "lexicase"}},
    "pressure": {"selection": {"policy": "tightening", "target_pass_rate": 0.1}},
    "archive": {"archive": {"kind": "cvt", "cells": 16}},
    "adaptation": {"operators": {"adapt": "probability-matching"}},
}
ADDED: dict[str, Tables] = {
    **ALONE,
    "confirmation and merit": merged(ALONE["confirmation"], ALONE["merit"]),
    "together": merged(*ALONE.values()),
}
"""What is compared with today's evolution, each alone and together; tried out on `TUNING_SEEDS` alone."""

ARMS: dict[str, Tables] = {**CONTROLS, "evolution": TODAY, **ADDED}
DEFAULT = "evolution"
"""The arm that has the settings of the defaults. It has to lead every other where heritability is 0.2."""

COMPARED = {"selection": ("policy", "confirm", "parents"), "operators": ("exemplars", "adapt"), "archive": ("kind",)}
"""What arms differ in, and what `DEFAULT` shares with the defaults."""

RESULTS = Path(__file__).parent / "results" / "strategies.jsonl"
VERSION = 1
"""To be raised when the code of an arm or a figure changes, so that every piece is measured again."""

BLOCK = {"flat": 100}
"""Seeds of one piece, for a setup of small runs; 20 for others."""


def one_run(setup: Setup, arm: str, seed: int, folder: Path) -> dict[str, float | None]:
    """Returns the figures of one run."""
    world = {**WORLD, "heritability": setup.heritability, "seed": seed}
    pool = folder / "pool.txt"
    pool.write_text("\n".join(random_prompts(setup.pool, seed)))
    own: Tables = {
        "run": {"seed": seed},
        "pool": {"path": str(pool)},
        "engine": {"world": world},
        "operators": {"offspring": setup.offspring},
        "budget": {"max_tokens": setup.tokens},
    }
    config = parse_config(merged(COMMON, own, ARMS[arm]))
    return figures(config, World(**world), last=setup.last, kept=setup.kept)


def rounded(value: float | None) -> float | None:
    """Returns a figure with as many digits as a line of the results holds."""
    return None if value is None else round(value, 4)


@dataclass(frozen=True)
class Piece:
    """Some seeds of one arm in one setup: what is measured in one go and becomes one line of the results."""

    setup: str
    arm: str
    first: int
    seeds: int

    @property
    def identity(self) -> dict[str, Any]:
        """Returns what its line is found by; another size, world or configuration makes another piece."""
        setup = SETUPS[self.setup]
        settings = repr((VERSION, WORLD, COMMON, ARMS[self.arm], replace(setup, seeds=range(0))))
        return {**asdict(self), "settings": hashlib.sha256(settings.encode()).hexdigest()[:12]}

    def measure(self) -> dict[str, Any]:
        """Returns its line."""
        began, found = time.process_time(), []
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(limits=1, user_api="blas"):
            for seed in range(self.first, self.first + self.seeds):
                found.append(one_run(SETUPS[self.setup], self.arm, seed, Path(folder)))
                gc.collect()
        columns = {name: [rounded(run[name]) for run in found] for name in (OUTCOME, *FURTHER)}
        return {**self.identity, "seconds": round(time.process_time() - began, 1), **columns}


def prepare() -> None:
    """Spares a process what would take longer than its runs, which are small and many."""
    # the packages that are installed do not change meanwhile, and are searched for plug-ins at each name
    kinds.entry_points = cache(kinds.entry_points)
    gc.disable()
    gc.freeze()


def pieces(names: Iterable[str]) -> list[Piece]:
    """Returns all pieces of some setups."""
    return [
        Piece(name, arm, seeds[0], len(seeds))
        for name in names
        for arm in ARMS
        for seeds in batched(SETUPS[name].seeds, BLOCK.get(name, 20))
    ]


def batched(seeds: range, size: int) -> list[range]:
    """Returns ranges of at most this size."""
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def known(results: Path) -> dict[str, dict[str, Any]]:
    """Returns the lines of the results by the identity of their pieces."""
    lines = results.read_text().splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines]
    names = Piece("flat", "evolution", 0, 0).identity
    return {json.dumps({name: row[name] for name in names}): row for row in rows}


def measured(wanted: Sequence[Piece], results: Path, processes: int) -> list[dict[str, Any]]:
    """Measures the pieces that are missing, and returns the lines of all."""
    found = known(results)
    missing = [piece for piece in wanted if json.dumps(piece.identity) not in found]
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=prepare)
    with workers as pool, results.open("a") as file:
        for done in as_completed([pool.submit(piece.measure) for piece in missing]):
            print(json.dumps(done.result()), file=file, flush=True)
            click.echo(".", nl=False, err=True)
    found = known(results)
    return [found[json.dumps(piece.identity)] for piece in wanted]


def pairs() -> list[tuple[str, str]]:
    """Returns the comparisons that are made in a setup: the defaults with all, and what is added with today's."""
    with_all = [(DEFAULT, arm) for arm in ARMS if arm != DEFAULT]
    return with_all + [(arm, "evolution") for arm in ADDED if arm != DEFAULT]


def figures_of(lines: Iterable[dict[str, Any]], setup: str) -> dict[str, dict[str, list[float]]]:
    """Returns the figures of a setup by arm and name, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in (OUTCOME, *FURTHER)} for arm in ARMS}
    for line in sorted((line for line in lines if line["setup"] == setup), key=lambda line: line["first"]):
        for name, values in found[line["arm"]].items():
            values += line[name]
    return found


def table(setup: str, found: dict[str, dict[str, list[float]]], comparisons: Sequence[Comparison]) -> str:
    """Returns two Markdown tables: means with intervals, and comparisons of the outcome."""
    names = (OUTCOME, *FURTHER)
    lines = [f"## {setup}, {len(SETUPS[setup].seeds)} seeds", ""]
    lines += [f"| arm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, values in found.items():
        cells = [f"{mean:.4g} ({low:.4g} to {high:.4g})" for mean, low, high in map(interval, values.values())]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", f"| arm | minus | {OUTCOME} | p, by Holm |", "|---|---|---|---|"]
    lines += [
        f"| {c.one} | {c.other} | {c.mean:+.3f} ({c.low:+.3f} to {c.high:+.3f}) | {c.p:.2g} |" for c in comparisons
    ]
    return "\n".join(lines)


def flat_claims(found: dict[str, dict[str, list[float]]]) -> int:
    """Returns the number of flat experiments in which any comparison is claimed to differ."""
    size = len(SETUPS["flat"].seeds) // FLAT_EXPERIMENTS
    claims = 0
    for first in range(0, size * FLAT_EXPERIMENTS, size):
        values = {arm: own[OUTCOME][first : first + size] for arm, own in found.items()}
        claims += any(comparison.p < ALPHA for comparison in compared(values, pairs()))
    return claims


def differs_from_defaults() -> list[str]:
    """Returns the keys in which the arm of the defaults has another value than a configuration that says nothing."""
    arm, defaults = merged(COMMON, ARMS[DEFAULT]), parse_config({"pool": {"path": "builtin:starter"}}).toml_tables()
    keys = [(section, key) for section, names in COMPARED.items() for key in names]
    return [f"{section}.{key}" for section, key in keys if arm[section][key] != defaults[section][key]]


def unevenness(found: dict[str, dict[str, list[float]]]) -> float:
    """Returns by how much the arms' mean spending differs at most, as a share of it."""
    spent = [statistics.fmean(own["tokens"]) for own in found.values()]
    return max(spent) / min(spent) - 1


def promised(holds: bool, what: str) -> bool:
    """Prints a promise and whether it is kept, and returns that."""
    click.echo(f"{'kept' if holds else 'MISSED'}: {what}")
    return holds


def kept_promises(lines: Sequence[dict[str, Any]], leads: Sequence[Comparison]) -> bool:
    """Prints all promises, and returns whether every one is kept."""
    behind = [c.other for c in leads if c.one == DEFAULT and not (c.mean > 0 and c.p < ALPHA)]
    kept_share, again = retest(World(**WORLD), 4_000)
    claims = flat_claims(figures_of(lines, "flat"))
    uneven = max(unevenness(figures_of(lines, setup)) for setup in SETUPS if setup.startswith("herit"))
    minutes = sum(line["seconds"] for line in lines) / 2 / 60
    return all(
        [
            promised(not behind, f"{DEFAULT} leads where heritability is 0.2; it does not lead: {behind or 'none'}"),
            promised(
                claims <= ALPHA * FLAT_EXPERIMENTS, f"{claims} of {FLAT_EXPERIMENTS} flat experiments claim anything"
            ),
            promised(uneven <= 0.02, f"all arms spend the same tokens, within {uneven:.2%}"),
            promised(
                RETEST[0] <= again <= RETEST[1], f"{again:.1%} of the kept ({kept_share:.1%}) are kept on a fresh draw"
            ),
            promised(minutes < 10, f"{minutes:.1f} minutes on two cores"),
        ]
    )


@click.command()
@click.option("--tune", is_flag=True, help="Run the arms on the seeds for tuning alone.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
@click.option("--processes", default=2, show_default=True)
def main(tune: bool, results: Path, processes: int) -> None:
    """Measure what is not measured yet, and print all."""
    names = ["tuning"] if tune else [name for name in SETUPS if name != "tuning"]
    lines = measured(pieces(names), results, processes)
    comparisons = {}
    for name in names:
        found = figures_of(lines, name)
        comparisons[name] = compared({arm: own[OUTCOME] for arm, own in found.items()}, pairs())
        if name != "flat":
            click.echo(f"\n{table(name, found, comparisons[name])}")
    click.echo(f"\n- {OUTCOME}: mean true quality of the last generation")
    click.echo("\n".join(f"- {name}: {meaning}" for name, meaning in FURTHER.items()) + "\n")
    if not tune:
        sys.exit(int(not kept_promises(lines, comparisons["heritability 0.2"])))


if __name__ == "__main__":
    main()
