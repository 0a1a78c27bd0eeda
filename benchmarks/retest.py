"""Measures how many kept prompts are kept again, what confirmation mends, and whether keep_probability is calibrated.

    python benchmarks/retest.py
    python benchmarks/retest.py --data TABLE

The data is `tulu2_bon16.parquet` from `../shared/data`, or any table with one row per response that `fittest filter`
reads. Cuts are the medians of one draw, and draws of one prompt are disjoint. keep_probability is computed from half
of the responses of each prompt, and compared with what the other half keeps, by cuts of its own. Exits with status 1
when a bound is missed: of the calibration for every table, of confirmation for the recorded one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from fittest.evo.records import RIP_METRICS
from fittest.fitness.halves import HalfDraws
from fittest.fitness.keep_probability import keep_probability
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.racing import Race
from fittest.fitness.repeatability import stability
from fittest.operators.policies import CutRule, levels_for
from fittest.operators.rejection import rule_that_keeps
from fittest.runs.sources.responses import Columns
from fittest.runs.sources.run_responses import gather_responses

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "responses" / "tulu2_bon16.parquet"
MEDIANS = CutRule(levels_for(RIP_METRICS, 0.5))
MOST_OFF, FEWEST_ENTRIES = 0.07, 200
"""Predicted and observed may differ by this much in a bin that has so many entries."""
MOST_BRIER = 0.95
LEAST_RETEST, MOST_ROLLOUTS = 0.75, 1.15
"""With confirm = 2: the least share that passes a fresh draw, and the most rollouts, in those of the plain race."""
BINS = np.linspace(0, 1, 6)

kept_by_medians = rule_that_keeps(MEDIANS, RIP_METRICS)


@dataclass(frozen=True)
class Table:
    """Holds the responses that have a reward, prompt after prompt."""

    rewards: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def with_at_least(self, n: int) -> Table:
        """Returns the table of the prompts that have so many responses."""
        enough = self.counts >= n
        rows = np.repeat(enough, self.counts)
        return Table(self.rewards[rows], self.lengths[rows], self.counts[enough])

    def parts(self, sizes: list[np.ndarray], rng: np.random.Generator) -> Iterator[Table]:
        """Yields disjoint random parts of the responses of each prompt, of the given sizes, in their order."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.lexsort((rng.random(len(owner)), owner))
        place = np.empty(len(owner), dtype=np.int64)
        place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        begin = np.zeros(len(self.counts), dtype=np.int64)
        for size in sizes:
            rows = (place >= begin[owner]) & (place < (begin + size)[owner])
            yield Table(self.rewards[rows], self.lengths[rows], size)
            begin = begin + size

    def draws(self, size: int, number: int, rng: np.random.Generator) -> list[Table]:
        """Returns disjoint draws of one size."""
        return list(self.parts([np.full(len(self.counts), size)] * number, rng))

    @property
    def values(self) -> np.ndarray:
        """Returns the metrics of each prompt, shape (prompts, len(METRICS))."""
        return rip_metrics(self.rewards, self.lengths, self.counts).values


def read(path: Path, columns: Columns) -> Table:
    """Returns the responses of a table that have a reward, of prompts that have two or more."""
    table = gather_responses([path], columns)
    rewards, lengths = table.frame["reward"].to_numpy(), table.lengths(len)
    there = np.isfinite(rewards)
    owner = np.repeat(np.arange(len(table.counts)), table.counts)
    counts = np.bincount(owner[there], minlength=len(table.counts))
    return Table(rewards[there], lengths[there], counts[counts > 0]).with_at_least(2)


def retested(table: Table, size: int, passing: int, repeats: int) -> tuple[float, float, float, float, int]:
    """Returns the share kept, the share of it that a fresh draw keeps, and fresh m1 and m3, and how many were kept."""
    kept, again, m1, m3, prompts = 0, 0, 0.0, 0.0, 0
    for repeat in range(repeats):
        values = [draw.values for draw in table.draws(size, passing + 1, np.random.default_rng([repeat, size]))]
        cuts = MEDIANS.fit(values[0], "quantile")
        passes = rule_that_keeps(cuts, RIP_METRICS)
        survives = np.all([passes(draw) for draw in values[:-1]], axis=0)
        fresh = values[-1][survives]
        kept, prompts = kept + int(survives.sum()), prompts + len(survives)
        again += int(passes(values[-1])[survives].sum())
        m1, m3 = m1 + fresh[:, 0].sum(), m3 + fresh[:, 2].sum()
    return kept / prompts, again / max(kept, 1), m1 / max(kept, 1), m3 / max(kept, 1), kept


def report_retests(table: Table, repeats: int, worst: float) -> None:
    """Prints how many of those that passed some draws pass a fresh one."""
    for size in (5, 2):
        for passing in range(1, 5 if size == 2 else 2):
            enough = table.with_at_least(size * (passing + 1))
            if len(enough.counts) < 2:
                click.echo(f"passing {passing} of size {size}: too few responses")
                continue
            share, again, m1, gap, kept = retested(enough, size, passing, repeats)
            click.echo(
                f"all three metrics, passing {passing} {'draw' if passing == 1 else 'draws'} of {size}:"
                f" {share:.1%} kept, of which pass a fresh draw {again:.2f};"
                f" fresh m1 {m1 - worst:.2f}, fresh gap {gap:.2f} ({kept} kept in {repeats} repeats)"
            )


def report_single_metrics(table: Table, repeats: int) -> None:
    """Prints the same for each metric alone, on one draw of 5."""
    table, found = table.with_at_least(10), {name: [0, 0] for name in RIP_METRICS}
    if len(table.counts) < 2:
        return
    for repeat in range(repeats):
        one, fresh = (draw.values for draw in table.draws(5, 2, np.random.default_rng([repeat, 5])))
        cuts = MEDIANS.fit(one, "quantile")
        for name in RIP_METRICS:
            passes = rule_that_keeps(cuts, [name])
            kept = passes(one)
            found[name][0] += int(kept.sum())
            found[name][1] += int((kept & passes(fresh)).sum())
    shares = ", ".join(f"{name} {again / max(kept, 1):.2f}" for name, (kept, again) in found.items())
    click.echo(f"one metric alone, one draw of 5, pass a fresh draw: {shares}")


def raced(draw: Table, chosen: np.ndarray, race: Race) -> int:
    """Returns how many responses a race draws for the chosen prompts, one at a time."""
    drawn = 0
    for rewards in draw.rewards.reshape(-1, race.n)[chosen].tolist():
        number = 1
        while number < race.n and race.elimination(rewards[:number], number) is None:
            number += 1
        drawn += number
    return drawn


def confirmed(table: Table, confirm: int, repeats: int) -> tuple[float, float]:
    """Returns the share of the confirmed that pass a fresh draw of 2, and the rollouts in those of a plain race."""
    kept = again = plain = all_rollouts = 0
    for repeat in range(repeats):
        draws = table.draws(2, confirm + 2, np.random.default_rng([repeat, 2]))
        values = [draw.values for draw in draws]
        cuts = MEDIANS.fit(values[0], "quantile")
        passes = rule_that_keeps(cuts, RIP_METRICS)
        race = Race(2, 1, cuts.min_reward, cuts.max_gap)
        survives = np.ones(len(table.counts), dtype=bool)
        for number, draw in enumerate(draws[:-1]):
            rollouts = raced(draw, survives, race)
            plain += rollouts if number == 0 else 0
            all_rollouts += rollouts
            survives &= passes(values[number])
        kept += int(survives.sum())
        again += int((survives & passes(values[-1])).sum())
    return again / max(kept, 1), all_rollouts / plain


def report_confirmation(table: Table, repeats: int, *, bound: bool) -> int:
    """Prints what confirmation costs and mends; returns the number of missed bounds."""
    missed = 0
    for confirm in (0, 1, 2):
        enough = table.with_at_least(2 * (confirm + 2))
        if len(enough.counts) < 2:
            click.echo(f"confirm = {confirm}, draws of 2: too few responses")
            continue
        again, rollouts = confirmed(enough, confirm, repeats)
        verdict = ""
        if bound and confirm == 2:
            held = again >= LEAST_RETEST and rollouts <= MOST_ROLLOUTS
            verdict = f" (bounds {LEAST_RETEST} and {MOST_ROLLOUTS}: {'held' if held else 'MISSED'})"
            missed += not held
        click.echo(
            f"confirm = {confirm}, draws of 2, raced: pass a fresh draw {again:.3f},"
            f" for {rollouts:.3f} x the rollouts of the race without confirmation{verdict}"
        )
    return missed


def report_keep_share(table: Table, splits: int) -> None:
    """Prints how much keep_share promises too much, against a fresh draw of the size of its half-samples."""
    table = table.with_at_least(8)
    if len(table.counts) < 2:
        return
    shares, outcomes = [], []
    for split in range(splits):
        rng = np.random.default_rng([split, 7])
        half = (table.counts + 1) // 4
        fitted, fresh = table.parts([2 * half, np.minimum(half, table.counts - 2 * half)], rng)
        halves = HalfDraws(fitted.rewards, fitted.lengths, fitted.counts, rng=rng)
        shares.append(stability(halves, kept_by_medians, seed=split).keep_share)
        outcomes.append(kept_by_medians(fresh.values))
    for line in bins(np.concatenate(shares), np.concatenate(outcomes))[0]:
        click.echo(f"keep_share {line}")


def bins(predicted: np.ndarray, observed: np.ndarray) -> tuple[list[str], float]:
    """Returns a line for each bin of 0.2, and the largest difference in a bin that has enough entries."""
    place = np.minimum((predicted * 5).astype(int), 4)
    lines, worst = [], 0.0
    for number in range(5):
        entries = int((place == number).sum())
        if not entries:
            continue
        says, found = float(predicted[place == number].mean()), float(observed[place == number].mean())
        if entries >= FEWEST_ENTRIES:
            worst = max(worst, abs(says - found))
        lines.append(
            f"{BINS[number]:.1f} to {BINS[number + 1]:.1f}: {entries} entries, mean {says:.3f}, kept again {found:.3f}"
        )
    return lines, worst


def report_calibration(table: Table, splits: int) -> int:
    """Prints whether keep_probability of half the responses is right about the others; returns the missed bounds."""
    table = table.with_at_least(4)
    half, chances, outcomes = table.counts // 2, [], []
    for split in range(splits):
        fitted, fresh = table.parts([half, half], np.random.default_rng([split, 11]))
        chances.append(keep_probability(fitted.rewards, fitted.lengths, half, keep=kept_by_medians, seed=split))
        outcomes.append(kept_by_medians(fresh.values))
    predicted, observed = np.concatenate(chances), np.concatenate(outcomes).astype(float)
    if not len(predicted) or np.isnan(predicted).any():
        click.echo("keep_probability: the table has too few prompts with four scored responses")
        return 1
    lines, worst = bins(predicted, observed)
    sizes = ", ".join(str(size) for size in np.unique(half)[:6])
    click.echo(f"keep_probability from {sizes} responses, against as many others, {splits} splits:")
    for line in lines:
        click.echo(f"  {line}")
    brier, rate = float(((predicted - observed) ** 2).mean()), float(observed.mean())
    ratio = brier / (rate * (1 - rate)) if 0 < rate < 1 else 0.0
    click.echo(
        f"  largest difference {worst:.3f} (bound {MOST_OFF}: {'held' if worst <= MOST_OFF else 'MISSED'});"
        f" Brier score {brier:.4f}, {ratio:.3f} of the base rate's (bound {MOST_BRIER}:"
        f" {'held' if ratio <= MOST_BRIER else 'MISSED'})"
    )
    return int(worst > MOST_OFF) + int(ratio > MOST_BRIER)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="A table with one row per response, or a run's folder.")
@click.option("--prompt-column", default="prompt", show_default=True)
@click.option("--response-column", default="response", show_default=True)
@click.option("--reward-column", default="reward", show_default=True)
@click.option("--repeats", default=200, show_default=True, help="Repeats of draws.")
@click.option("--splits", default=100, show_default=True, help="Splits for the calibration.")
def main(
    data: Path | None, prompt_column: str, response_column: str, reward_column: str, repeats: int, splits: int
) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    if data is None:
        columns, worst = Columns(prompt="instruction", response="output"), 1.0
        click.echo("tulu2_bon16: reward - 1 is a win probability, and m1 is given as one")
    else:
        columns, worst = Columns(prompt=prompt_column, response=response_column, rewards={reward_column: 1.0}), 0.0
    table = read(data or RECORDED, columns)
    click.echo(
        f"{len(table.counts)} prompts with {table.counts.min()} to {table.counts.max()} scored responses"
        if len(table.counts)
        else "no prompt has two scored responses"
    )
    report_retests(table, repeats, worst)
    report_single_metrics(table, repeats)
    missed = report_confirmation(table, repeats, bound=data is None)
    report_keep_share(table, splits)
    missed += report_calibration(table, splits)
    sys.exit(int(missed > 0))


if __name__ == "__main__":
    main()
