"""Compares evolution with its control arms at equal budget, on the embedded engine, over several seeds.

    python benchmarks/evolution_vs_controls.py --out controls

Every arm has the same pool, proposals, responses for each prompt, operators and gates; only what it breeds from
differs. The pool of a seed is sampled once and handed to its other arms through the journal. Best-of-N takes the best
of what self-instruct made, as many as evolution kept. The program prints a Markdown table of means over the seeds, and
of how much better evolution is, with 95 % intervals (Student's t). A run that was cut off goes on when the program is
started again. It exits with status 1 when the arms of a seed differ in proposals, or when a prompt was not sampled
fully.
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

from fittest.evo.arms import ARMS
from fittest.evo.pareto import ranks_of
from fittest.fitness.diversity import vendi_score
from fittest.fitness.embedders.minilm import MiniLM
from fittest.runs import parse_config, run
from fittest.runs.models import local_path
from fittest.runs.progress import PlainProgress

RUN_ARMS = [arm for arm in ARMS if arm != "best-of-n"]
"""The arms that have runs; best-of-N takes the best that self-instruct made, as many as evolution kept."""

MEASURES = {
    "kept": "offspring of all generations inside the pool's cuts; for best-of-n as many as evolution's",
    "last pass rate": "share of the last generation's offspring inside the pool's cuts, before any selection",
    "m1": "mean reward of the worst response of the kept",
    "m3": "mean reward gap of the kept; smaller is better",
    "Vendi": "Vendi score of the kept: how many different prompts they amount to",
    "tokens": "prompt and completion tokens of the run, the pool's included",
}


def configuration(seed: int, arm: str, pool: str, limit: int, offspring: int, generations: int) -> dict[str, Any]:
    """Returns the configuration of one run; within a seed only the arm differs."""
    return {
        "run": {"seed": seed, "generations": generations, "arm": arm},
        "pool": {"path": pool, "limit": limit},
        "engine": {"model": "smollm2-135m", "slots": 12, "context": 1024, "sampling": {"n": 4, "max_tokens": 20}},
        # without racing, every prompt is measured fully in every arm
        "selection": {"quantile": 0.25, "race_round": 0},
        "operators": {"shots": 4, "offspring": offspring, "sampling": {"max_tokens": 48}},
    }


def offspring_of(folder: Path) -> pl.DataFrame:
    """Returns all offspring that have metrics, with their generation."""
    files = sorted((folder / "generations").glob("*.parquet"))[1:]
    tables = [
        pl.read_parquet(file).with_columns(generation=number).filter(pl.col("m1").is_not_null())
        for number, file in enumerate(files, start=1)
    ]
    return pl.concat(tables)


def inside(cuts: dict[str, float]) -> pl.Expr:
    """Tells whether a prompt lies inside the cuts."""
    return (
        (pl.col("m1") >= cuts["min_reward"]) & (pl.col("m2") >= cuts["min_length"]) & (pl.col("m3") <= cuts["max_gap"])
    )


def best(offspring: pl.DataFrame, count: int) -> pl.DataFrame:
    """Returns the best prompts by Pareto rank over m1, m2 and m3, then by m1."""
    ranks = ranks_of(offspring.select("m1", "m2", -pl.col("m3")).cast(pl.Float64).to_numpy())
    return offspring.with_columns(rank=ranks).sort("rank", -pl.col("m1"), "prompt_id").head(count)


def outcome(folder: Path, kept: pl.DataFrame, cuts: dict[str, float], embedder: MiniLM) -> dict[str, float]:
    """Returns the figures that one arm reached with one seed."""
    offspring = offspring_of(folder)
    last = offspring.filter(pl.col("generation") == pl.col("generation").max())
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "kept": float(kept.height),
        "last pass rate": last.filter(inside(cuts)).height / last.height if last.height else np.nan,
        "m1": float(np.mean(kept["m1"].to_numpy())) if kept.height else np.nan,
        "m3": float(np.mean(kept["m3"].to_numpy())) if kept.height else np.nan,
        "Vendi": float(vendi_score(embedder.embed(kept["prompt"].to_list()))) if kept.height else 0.0,
        "tokens": float(summary["prompt_tokens"] + summary["completion_tokens"]),
    }


def difference(one: Sequence[float], other: Sequence[float]) -> str:
    """Returns the mean paired difference and its 95 % interval."""
    gaps = np.array(one) - np.array(other)
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return f"{gaps.mean():+.3g} ({gaps.mean() - half:+.3g} to {gaps.mean() + half:+.3g})"


def report(found: dict[str, dict[str, list[float]]], seeds: int) -> str:
    """Returns two Markdown tables: means by arm, and evolution minus each control."""
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
    """Do the runs that are missing, then print the tables."""
    embedder = MiniLM(folder=local_path("minilm"), device="cpu")
    found: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in MEASURES} for arm in ARMS}
    uneven = False
    for seed in range(1, seeds + 1):
        folders = {arm: out / f"seed{seed}-{arm}" for arm in RUN_ARMS}
        for arm, folder in folders.items():
            if arm != "evolution" and not folder.exists():
                folder.mkdir(parents=True)
                shutil.copy(folders["evolution"] / "journal.sqlite", folder / "journal.sqlite")
            config = parse_config(configuration(seed, arm, pool, limit, offspring, generations))
            click.echo(f"seed {seed}, {arm}", err=True)
            summary = run(config, folder, resume=True, progress=PlainProgress(4, every=60.0)).summary
            uneven |= summary["rollouts"] != summary["rollouts_full"]
            uneven |= summary["candidates"] != summary["seed_prompts"] + generations * offspring
        cuts = json.loads((folders["evolution"] / "thresholds.json").read_text())
        kept = {arm: offspring_of(folder).filter(inside(cuts)) for arm, folder in folders.items()}
        kept["best-of-n"] = best(offspring_of(folders["self-instruct"]), kept["evolution"].height)
        folders["best-of-n"] = folders["self-instruct"]
        for arm, folder in folders.items():
            for name, value in outcome(folder, kept[arm], cuts, embedder).items():
                found[arm][name].append(value)
    click.echo(report(found, seeds))
    sys.exit(int(uneven))


if __name__ == "__main__":
    main()
