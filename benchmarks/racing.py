"""Measures what racing saves, and checks that it changes no survivor, on recorded responses with the replay engine.

    python benchmarks/racing.py

The data is `tulu2_bon16.parquet` (N = 11 with a reward) and subsets of 4, 8 and 15 models of `arena_bench_v1.parquet`
from `../shared/data` or the given folder. Cuts are medians, frozen from full sampling. Each order shuffles the
responses of every prompt; plain NumPy on all responses in that order says which prompts should survive. The last lines
measure how long slots stand empty with an engine that needs time. The program exits with status 1 when survivors
differ or a bound is missed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import polars as pl

from fittest.evo.backends.replay import Replay
from fittest.evo.evolution import WORKERS_PER_SLOT
from fittest.evo.feeder import Feeder
from fittest.evo.logbook import metric_values
from fittest.evo.prompt import Prompt
from fittest.evo.records import RIP_METRICS, Birth, Completion, Missing, Range, Request, Sampling, Thresholds
from fittest.evo.seeds import SeedTree
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.racing import RaceTrack
from fittest.fitness.rewards.recorded import RecordedReward
from fittest.operators.policies import Absolute
from fittest.operators.rejection import failed_metrics
from fittest.runs.output.accounting import idle_fraction
from fittest.runs.output.journal import SqliteJournal

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TULU_BOUNDS = {1: (0.42, 0.43), 2: (0.46, 0.47)}
"""Round size → the share of rollouts that the mean over the orders, and that each order, may use."""

Rewards = Mapping[tuple[str, str], float | Missing]


@dataclass(frozen=True)
class Recording:
    """Holds the responses of each prompt, their rewards, and the number of responses of each prompt."""

    responses: Mapping[str, Sequence[str]]
    rewards: Rewards
    n: int

    def shuffled(self, seed: int) -> Recording:
        """Returns the recording with the responses of every prompt in another order."""
        rng = np.random.default_rng(seed)
        orders = {prompt: [texts[i] for i in rng.permutation(len(texts))] for prompt, texts in self.responses.items()}
        return Recording(orders, self.rewards, self.n)


@dataclass(frozen=True)
class Outcome:
    """Says which prompts survived, how many responses were drawn, and the share of slot time that stood empty."""

    survivors: frozenset[str]
    rollouts: int
    idle: float | None


def recording(table: pl.DataFrame, n: int) -> Recording:
    """Returns the prompts that have n responses with a reward; further responses are left out."""
    table = table.filter(pl.col("reward").is_not_null())
    rewards: dict[tuple[str, str], float | Missing] = {}
    responses: dict[str, list[str]] = {}
    for prompt, response, reward in table.select("instruction", "output", "reward").iter_rows():
        if len(responses.setdefault(prompt, [])) < n:
            responses[prompt].append(response)
            rewards[prompt, response] = reward
    return Recording({prompt: texts for prompt, texts in responses.items() if len(texts) == n}, rewards, n)


class SlowReplay(Replay):
    """Answers after a time in proportion to the recorded response: 10 ms for 1,000 characters."""

    async def sample(self, request: Request) -> Completion:
        """Returns the recorded reply after that time."""
        reply = await super().sample(request)
        await asyncio.sleep(len(reply.text) * 1e-5)
        return reply


async def sampled(
    found: Recording,
    cuts: Thresholds,
    round_size: int,
    slots: int,
    *,
    engine_class: type[Replay] = Replay,
    confidence: float | None = None,
) -> Outcome:
    """Samples every prompt through feeder, journal and replay engine; round size 0 samples all of them fully."""
    seeds = SeedTree(0)
    track = None
    if round_size:
        known = Absolute(cuts).known
        track = RaceTrack(found.n, round_size, known, lambda generation: RIP_METRICS, confidence, 0.0, seeds)
    prompts = [
        Prompt(text, Birth(operator="pool", generation=0, slot=slot)) for slot, text in enumerate(found.responses)
    ]
    engine = engine_class.of_responses(found.responses, fingerprint="replay", slots=slots)
    journal = SqliteJournal(":memory:")
    queue = iter(prompts)
    async with Feeder(engine, journal) as feeder:
        evaluate = RipEvaluator(
            feeder=feeder,
            reward=RecordedReward(found.rewards, fingerprint="column:reward"),
            journal=journal,
            seeds=seeds,
            n=found.n,
            sampling=Sampling(),
            length_unit=len,
            track=track,
        )

        async def work() -> None:
            for prompt in queue:
                await evaluate([prompt])

        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS_PER_SLOT * slots):
                workers.create_task(work())
        rollouts = feeder.traffic["rollout"].requests
    idle = idle_fraction(journal.in_flight_changes(), slots)
    journal.close()
    scored = [prompt for prompt in prompts if prompt.metrics is not None]
    verdicts = failed_metrics(metric_values(scored), cuts, RIP_METRICS)
    survivors = frozenset(prompt.text for prompt, failed in zip(scored, verdicts, strict=True) if not failed)
    return Outcome(survivors, rollouts, idle)


def plain_metrics(found: Recording) -> np.ndarray:
    """Computes m1, m2 and m3 one prompt at a time, shape (prompts, 3)."""
    rows = []
    for prompt, texts in found.responses.items():
        rewards = np.array([found.rewards[prompt, text] for text in texts])
        worst = rewards.argmin()
        rows.append((rewards[worst], len(texts[worst]), rewards.max() - rewards[worst]))
    return np.array(rows)


def median_cuts(found: Recording) -> Thresholds:
    """Returns cuts at the median of each metric."""
    low, length, gap = np.median(plain_metrics(found), axis=0).tolist()
    return Thresholds("absolute", {"m1": Range(low=low), "m2": Range(low=length), "m3": Range(high=gap)})


def plain_survivors(found: Recording, cuts: Thresholds) -> frozenset[str]:
    """Tells which prompts survive full sampling."""
    m1, m2, m3 = plain_metrics(found).T
    passed = (m1 >= cuts.min_reward) & (m2 >= cuts.min_length) & (m3 <= cuts.max_gap)
    return frozenset(prompt for prompt, survives in zip(found.responses, passed, strict=True) if survives)


def measure(
    name: str, found: Recording, rounds: Sequence[int], orders: int, slots: int
) -> tuple[bool, dict[int, list[float]]]:
    """Prints one line for each round size; returns whether all survivors agree, and the shares of rollouts used."""
    cuts = median_cuts(found)
    full, all_same = len(found.responses) * found.n, True
    shares: dict[int, list[float]] = {size: [] for size in rounds}
    for size in rounds:
        same = True
        for order in range(orders):
            shuffled = found.shuffled(order)
            raced = asyncio.run(sampled(shuffled, cuts, size, slots))
            same &= raced.survivors == plain_survivors(shuffled, cuts)
            shares[size].append(raced.rollouts / full)
        click.echo(
            f"{name}, N = {found.n}, {len(found.responses)} prompts,"
            f" {len(plain_survivors(found, cuts))} survive; round {size}:"
            f" {np.mean(shares[size]):.3f} of all rollouts (mean of {orders} orders,"
            f" {min(shares[size]):.3f} to {max(shares[size]):.3f}); survivors {'identical' if same else 'DIFFER'}"
        )
        all_same &= same
    return all_same, shares


def guessed(name: str, found: Recording, confidence: float, orders: int, slots: int) -> str:
    """Prints what the confidence rule saves beyond exact stops, and the survivors that it loses."""
    cuts, lost, total, rollouts = median_cuts(found), 0, 0, 0
    for order in range(orders):
        shuffled = found.shuffled(order)
        raced = asyncio.run(sampled(shuffled, cuts, 2, slots, confidence=confidence))
        expected = plain_survivors(shuffled, cuts)
        lost, total = lost + len(expected - raced.survivors), total + len(expected)
        rollouts += raced.rollouts
    share = rollouts / (orders * len(found.responses) * found.n)
    return (
        f"{name}, round 2 with race_confidence {confidence}: {share:.3f} of all rollouts,"
        f" {lost} of {total} survivors lost ({orders} orders together)"
    )


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, help="Folder of the real responses.")
@click.option("--orders", default=20, show_default=True, help="Seeded orders of the responses.")
@click.option("--slots", default=64, show_default=True)
def main(data: Path, orders: int, slots: int) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    missed = 0
    tulu = recording(pl.read_parquet(data / "responses" / "tulu2_bon16.parquet"), 11)
    same, shares = measure("tulu2_bon16", tulu, list(TULU_BOUNDS), orders, slots)
    missed += not same
    for size, (mean_bound, each_bound) in TULU_BOUNDS.items():
        held = np.mean(shares[size]) <= mean_bound and max(shares[size]) <= each_bound
        click.echo(f"round {size}: bounds {mean_bound} (mean) and {each_bound} (each) {'held' if held else 'MISSED'}")
        missed += not held
    cuts = median_cuts(tulu)
    for size in (0, 1, 2):
        outcome = asyncio.run(sampled(tulu, cuts, size, 16, engine_class=SlowReplay))
        click.echo(f"16 slots, {f'round {size}' if size else 'no racing'}: engine idle {outcome.idle or 0.0:.1%}")
    for confidence in (0.9, 0.99):
        click.echo(guessed("tulu2_bon16", tulu, confidence, min(orders, 5), slots))
    arena = pl.read_parquet(data / "responses" / "arena_bench_v1.parquet")
    scored_models = sorted(arena.filter(pl.col("reward").is_not_null())["model"].unique())
    for count in (4, 8, 15):
        some = arena.filter(pl.col("model").is_in(scored_models[:count]))
        same, _ = measure(f"arena_bench_v1, {count} models", recording(some, count), (1, 2), orders, slots)
        missed += not same
    sys.exit(int(missed > 0))


if __name__ == "__main__":
    main()
