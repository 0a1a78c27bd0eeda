"""Evolution against its control arms at equal budget, on the embedded engine, over several seeds.

    python benchmarks/evolution_vs_controls.py --out controls

Every arm has the same pool, proposals, responses for each prompt, operators and gates; only what it breeds from
differs. The pool of a seed is sampled once and handed to its other arms through the journal. Prints a Markdown table
of means over the seeds, and of what evolution is better by, with 95 % intervals (Student's t). A run that was cut off
goes on when the program is started again. Exits with status 1 when an arm spent more rollouts a prompt than another.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from scipy import stats

from evo.arms import ARMS
from fitness.diversity import vendi_score
from fitness.embedders.minilm import MiniLM
from runs import parse_config, run
from runs.models import local_path
from runs.progress import PlainProgress

MEASURES = {
    "pass rate": "share of the last generation's offspring inside the pool's cuts, before any selection",
    "m1": "mean reward of the worst response in the last generation",
    "m3": "mean reward gap in the last generation; smaller is better",
    "passed": "offspring of all generations inside the pool's cuts",
    "Vendi": "Vendi score of those: how many different prompts they amount to",
    "tokens": "prompt and completion tokens of the run, the pool's included",
}


def configuration(seed: int, arm: str, pool: str, limit: int, offspring: int, generations: int) -> dict[str, Any]:
    """The settings of one run; the arm is all that differs within a seed."""
    return {
        "run": {"seed": seed, "generations": generations, "arm": arm},
        "pool": {"path": pool, "limit": limit},
        "engine": {"model": "smollm2-135m", "slots": 12, "context": 1024, "sampling": {"n": 4, "max_tokens": 20}},
        # without racing, so that every prompt is measured fully in every arm
        "selection": {"quantile": 0.25, "race_round": 0},
        "operators": {"shots": 4, "offspring": offspring, "sampling": {"max_tokens": 48}},
    }


def outcome(folder: Path, cuts: dict[str, float], embedder: MiniLM) -> dict[str, float]:
    """What one run reached, by the cuts that the pool gave to every arm of its seed."""
    files = sorted((folder / "generations").glob("*.parquet"))[1:]
    tables = [pl.read_parquet(file).filter(pl.col("m1").is_not_null()) for file in files]
    passed = [
        table.filter(
            (pl.col("m1") >= cuts["min_reward"])
            & (pl.col("m2") >= cuts["min_length"])
            & (pl.col("m3") <= cuts["max_gap"])
        )
        for table in tables
    ]
    good = pl.concat(passed)["prompt"].to_list()
    summary = json.loads((folder / "summary.json").read_text())
    last = tables[-1]
    return {
        "pass rate": passed[-1].height / last.height if last.height else np.nan,
        "m1": float(np.mean(last["m1"].to_numpy())) if last.height else np.nan,
        "m3": float(np.mean(last["m3"].to_numpy())) if last.height else np.nan,
        "passed": float(len(good)),
        "Vendi": float(vendi_score(embedder.embed(good))) if good else 0.0,
        "tokens": float(summary["prompt_tokens"] + summary["completion_tokens"]),
    }


def difference(one: Sequence[float], other: Sequence[float]) -> str:
    """Mean paired difference and its 95 % interval."""
    gaps = np.array(one) - np.array(other)
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return f"{gaps.mean():+.3g} ({gaps.mean() - half:+.3g} to {gaps.mean() + half:+.3g})"


def report(found: dict[str, dict[str, list[float]]], seeds: int) -> str:
    """Two Markdown tables: means by arm, and evolution minus each control."""
    names = list(MEASURES)
    lines = [f"Means over {seeds} seeds:", "", f"| arm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {arm} | {' | '.join(f'{np.mean(values[name]):.3g}' for name in names)} |" for arm, values in found.items()
    ]
    lines += ["", "Evolution minus the control, with 95 % interval over the seeds:", ""]
    lines += [f"| control | {' | '.join(names[:-1])} |", "|---" * len(names) + "|"]
    lines += [
        f"| {arm} | {' | '.join(difference(found['evolution'][name], values[name]) for name in names[:-1])} |"
        for arm, values in found.items()
        if arm != "evolution"
    ]
    return "\n".join([*lines, "", *(f"- {name}: {meaning}" for name, meaning in MEASURES.items())])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the runs.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--pool", default="builtin:starter", show_default=True)
@click.option("--limit", default=20, show_default=True, help="Human prompts.")
@click.option("--offspring", default=14, show_default=True, help="Proposals for each generation.")
@click.option("--generations", default=2, show_default=True)
def main(out: Path, seeds: int, pool: str, limit: int, offspring: int, generations: int) -> None:
    """Run what is not there yet, then print the tables."""
    embedder = MiniLM(folder=local_path("minilm"), device="cpu")
    found: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in MEASURES} for arm in ARMS}
    spent: set[float] = set()
    for seed in range(1, seeds + 1):
        first = out / f"seed{seed}-evolution"
        for arm in ARMS:
            folder = out / f"seed{seed}-{arm}"
            if arm != "evolution" and not folder.exists():
                folder.mkdir(parents=True)
                shutil.copy(first / "journal.sqlite", folder / "journal.sqlite")
            config = parse_config(configuration(seed, arm, pool, limit, offspring, generations))
            click.echo(f"seed {seed}, {arm}", err=True)
            run(config, folder, resume=True, progress=PlainProgress(4, every=60.0))
            cuts = json.loads((first / "thresholds.json").read_text())
            for name, value in outcome(folder, cuts, embedder).items():
                found[arm][name].append(value)
            summary = json.loads((folder / "summary.json").read_text())
            spent.add(summary["rollouts"] / summary["rollouts_full"])
    click.echo(report(found, seeds))
    sys.exit(int(spent != {1.0}))


if __name__ == "__main__":
    main()
