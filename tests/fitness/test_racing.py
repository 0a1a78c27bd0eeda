"""A race changes no survivor, for fewer responses; the confidence rule says what it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fittest.evo.backends.replay import Replay
from fittest.evo.feeder import Feeder
from fittest.evo.logbook import metric_values
from fittest.evo.prompt import Prompt
from fittest.evo.records import RIP_METRICS, Birth, MetricName, Range, Sampling, Thresholds
from fittest.evo.seeds import SeedTree
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.racing import Race, RaceTrack
from fittest.fitness.rewards.recorded import RecordedReward
from fittest.operators.policies import Absolute
from fittest.operators.rejection import failed_metrics
from fittest.runs.output.journal import SqliteJournal

# few different numbers, so that ties are common; None is a missing reward
rewards = st.one_of(st.integers(-2, 3).map(float), st.none(), st.floats(-5, 5, width=32))
cuts = st.one_of(st.none(), st.integers(-2, 3).map(float), st.floats(-5, 5, width=32))


def track(n: int, round_size: int, low: float | None, high: float | None, **more: float) -> RaceTrack:
    bounds: dict[MetricName, Range] = {"m1": Range(low=low), "m2": Range(low=2), "m3": Range(high=high)}
    return RaceTrack(
        n=n,
        round_size=round_size,
        known=Absolute(Thresholds("absolute", bounds)).known,
        metrics=lambda generation: RIP_METRICS,
        confidence=more.get("confidence"),
        audit=more.get("audit", 0.0),
        seeds=SeedTree(5),
    )


async def evaluated(table: Sequence[Sequence[float | None]], race: RaceTrack | None) -> list[Prompt]:
    """Prompts 0, 1, … with the given rewards, sampled through feeder, journal and replay engine."""
    n = len(table[0])
    # answers of different length, so that m2 depends on which one is the worst
    responses = {str(i): [f"{i} {k}" + "x" * (k % 3) for k in range(n)] for i in range(len(table))}
    known = {
        (str(i), responses[str(i)][k]): reward
        for i, row in enumerate(table)
        for k, reward in enumerate(row)
        if reward is not None
    }
    prompts = [Prompt(text, Birth(operator="pool", generation=0, slot=int(text))) for text in responses]
    journal = SqliteJournal(":memory:")
    engine = Replay.of_responses(responses, fingerprint="replay", slots=3)
    async with Feeder(engine, journal) as feeder:
        evaluate = RipEvaluator(
            feeder=feeder,
            reward=RecordedReward(known, fingerprint="recorded"),
            journal=journal,
            seeds=SeedTree(5),
            n=n,
            sampling=Sampling(),
            length_unit=len,
            track=race,
        )
        await asyncio.gather(*(evaluate([prompt]) for prompt in prompts))
        assert feeder.traffic["rollout"].requests == sum(prompt.n_drawn for prompt in prompts)
    journal.close()
    return prompts


def survivors(prompts: Sequence[Prompt], low: float | None, high: float | None) -> list[str]:
    scored = [prompt for prompt in prompts if prompt.metrics is not None]
    given: dict[MetricName, Range] = {"m1": Range(low=low), "m2": Range(low=2), "m3": Range(high=high)}
    failed = failed_metrics(metric_values(scored), Thresholds("absolute", given), RIP_METRICS)
    return [prompt.text for prompt, names in zip(scored, failed, strict=True) if not names]


@settings(max_examples=60)
@given(
    st.integers(2, 9).flatmap(lambda n: st.lists(st.lists(rewards, min_size=n, max_size=n), min_size=1, max_size=6)),
    st.integers(1, 10),
    cuts,
    cuts,
)
def test_survivors_are_those_of_full_sampling(
    table: list[list[float | None]], round_size: int, low: float | None, high: float | None
) -> None:
    full = asyncio.run(evaluated(table, None))
    raced = asyncio.run(evaluated(table, track(len(table[0]), round_size, low, high)))
    assert survivors(raced, low, high) == survivors(full, low, high)
    for one, other in zip(raced, full, strict=True):
        assert one.n_drawn <= other.n_drawn
        if one.elimination is None:
            assert one.metrics == other.metrics
        elif other.metrics is not None:
            assert one.elimination.m1 >= other.metrics.m1
            assert one.elimination.m3 <= other.metrics.m3


@settings(max_examples=60)
@given(st.lists(rewards, min_size=2, max_size=12), st.integers(1, 12), cuts, cuts)
def test_a_prompt_stops_after_the_first_round_in_which_it_has_failed(
    row: list[float | None], round_size: int, low: float | None, high: float | None
) -> None:
    (prompt,) = asyncio.run(evaluated([row], track(len(row), round_size, low, high)))
    first = next(
        (
            drawn
            for drawn in range(round_size, len(row), round_size)
            if (seen := [reward for reward in row[:drawn] if reward is not None])
            and ((low is not None and min(seen) < low) or (high is not None and max(seen) - min(seen) > high))
        ),
        len(row),
    )
    assert prompt.n_drawn == first
    assert prompt.eliminated == (first < len(row))


def test_a_stopped_prompt_names_all_that_has_failed() -> None:
    (prompt,) = asyncio.run(evaluated([[0.0, 9.0, 1.0, 1.0]], track(4, 2, 0.5, 3.0)))
    assert prompt.elimination is not None
    assert prompt.elimination.by == "m1"
    assert prompt.failed_metrics == ("m1", "m3")
    assert (prompt.elimination.m1, prompt.elimination.m3) == (0.0, 9.0)


def test_nothing_is_raced_by_other_metrics_or_unknown_cuts() -> None:
    prompt = Prompt("p", Birth(operator="pool", generation=0, slot=0))
    unknown = RaceTrack(4, 1, lambda generation: None, lambda generation: RIP_METRICS, None, 0.0, SeedTree(0))
    assert unknown.race(prompt) is None
    only_m2 = RaceTrack(
        4,
        1,
        Absolute(Thresholds("absolute", {"m2": Range(low=9)})).known,
        lambda generation: RIP_METRICS,
        None,
        0.0,
        SeedTree(0),
    )
    assert only_m2.race(prompt) is None
    not_counting = RaceTrack(
        4,
        1,
        Absolute(Thresholds("absolute", {"m1": Range(low=9)})).known,
        lambda generation: ("m2",),
        None,
        0.0,
        SeedTree(0),
    )
    assert not_counting.race(prompt) is None
    assert track(4, 4, 0.0, None).race(prompt) is None


def test_the_chance_to_survive_is_right_on_average_for_prompts_of_all_kinds() -> None:
    """Over prompts whose mean and spread are drawn widely, those given about a chance p survive about that often."""
    rng = np.random.default_rng(0)
    race = Race(n=20, round_size=5, min_reward=-1.0, max_gap=4.0, confidence=0.9)
    chances, lived = [], []
    for _ in range(8000):
        row = rng.normal(rng.normal(scale=3.0), np.exp(rng.normal()), size=20)
        seen = row[:5].tolist()
        if min(seen) >= -1.0 and np.ptp(seen) <= 4.0:
            chances.append(race.chance(seen, 15))
            lived.append(row.min() >= -1.0 and np.ptp(row) <= 4.0)
    chance, survived = np.array(chances), np.array(lived)
    assert len(chance) > 1000
    for low, high in ((0.0, 0.15), (0.15, 0.35), (0.35, 0.65), (0.8, 1.01)):
        some = (chance >= low) & (chance < high)
        assert some.sum() > 50
        assert abs(survived[some].mean() - chance[some].mean()) < 0.12


def test_draws_that_share_an_unknown_mean_are_likelier_to_survive_than_independent_ones() -> None:
    race = Race(n=64, round_size=1, min_reward=0.0, max_gap=None, confidence=0.9)
    seen = [0.5, 0.9, 1.6, 1.1]
    once = race.chance(seen, 1)
    assert race.chance(seen, 40) > once**40


def test_three_rewards_that_differ_are_needed_before_anything_is_claimed() -> None:
    race = Race(n=64, round_size=1, min_reward=0.0, max_gap=None, confidence=0.9)
    assert race.chance([0.1, 0.2], 62) == 1.0
    assert race.chance([0.1, 0.1, 0.1], 61) == 1.0
    assert race.chance([0.1, 0.2, 0.3], 61) < 0.5


def test_audited_prompts_are_sampled_fully_and_remember_that_they_would_have_been_dropped() -> None:
    row = [0.0, 2.0, -1.0, 0.4, *[0.5] * 12]
    (dropped,) = asyncio.run(evaluated([row], track(16, 4, -1.0, None, confidence=0.6)))
    (audited,) = asyncio.run(evaluated([row], track(16, 4, -1.0, None, confidence=0.6, audit=1.0)))
    assert dropped.elimination is not None
    assert (dropped.elimination.by, dropped.n_drawn, dropped.eliminated) == ("confidence", 4, True)
    assert audited.elimination is not None
    assert (audited.elimination.by, audited.n_drawn, audited.eliminated) == ("confidence", 16, False)
    assert audited.metrics is not None
    assert math.isclose(audited.metrics.m1, -1.0)


def test_an_audited_prompt_that_ends_with_one_reward_was_not_stopped() -> None:
    row = [-5.0, None, None, None]
    (audited,) = asyncio.run(evaluated([row], track(4, 1, 0.0, None, confidence=0.9, audit=1.0)))
    assert audited.n_drawn == 4
    assert not audited.eliminated
    assert audited.metrics is None
    assert audited.failed_metrics == ()


def test_bounds_are_raced_as_cuts_are() -> None:
    bounded = Thresholds("quantile", {}, {"m1": Range(low=0.5)})
    race = RaceTrack(4, 1, Absolute(bounded).known, lambda generation: ("m2",), None, 0.0, SeedTree(0)).race(
        Prompt("p", Birth(operator="pool", generation=0, slot=0))
    )
    assert race is not None
    assert race.min_reward == 0.5
