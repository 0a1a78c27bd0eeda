"""Cuts, the rejection rule and trimming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fittest.evo.pareto import ranks_of
from fittest.evo.prompt import Prompt
from fittest.evo.records import METRICS, RIP_METRICS, Birth, MetricName, Range, Thresholds
from fittest.operators.policies import (
    Absolute,
    Annealed,
    CutRule,
    FrozenQuantile,
    Pareto,
    PerGeneration,
    annealed_rules,
    levels_for,
)
from fittest.operators.rejection import failed_metrics, outranked
from fittest.operators.trimming import select_by_rank_and_diversity

WIDTH = len(METRICS)
tables = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(WIDTH)), elements=st.floats(-100, 100, width=32))
RIP_CUTS = Thresholds("absolute", {"m1": Range(low=0.5), "m2": Range(low=10.0), "m3": Range(high=0.25)})


def rows(*values: Sequence[float]) -> np.ndarray:
    """Rows of metrics whose further columns are not known."""
    return np.array([[*row, *[np.nan] * (WIDTH - len(row))] for row in values])


def rule(quantile: float, metrics: Sequence[MetricName] = RIP_METRICS) -> CutRule:
    return CutRule(levels_for(metrics, quantile), quantile=quantile)


@given(tables, st.floats(0, 0.9))
def test_each_metric_alone_cuts_no_more_than_its_share(table: np.ndarray, quantile: float) -> None:
    cuts = rule(quantile, METRICS).fit(table, "quantile")
    for name in METRICS:
        failed = sum(name in names for names in failed_metrics(table, cuts, [name]))
        assert failed <= math.ceil(quantile * (len(table) - 1) + 1e-9)


def test_cuts_are_inclusive() -> None:
    table = rows((0.5, 10, 0.25), (0.4999, 9, 0.2501))
    assert failed_metrics(table, RIP_CUTS, METRICS) == [(), RIP_METRICS]


def test_only_the_metrics_used_count() -> None:
    assert failed_metrics(rows((0.9, 50, 0.9)), RIP_CUTS, ["m1", "m2"]) == [()]


def test_a_metric_can_be_cut_from_both_sides_and_from_the_unusual_one() -> None:
    cuts = Thresholds("absolute", {"m2": Range(low=10, high=20), "m1": Range(high=0.5)})
    table = rows((0.1, 15, 0), (0.1, 25, 0), (0.9, 15, 0))
    assert failed_metrics(table, cuts, METRICS) == [(), ("m2",), ("m1",)]


def test_a_value_that_is_not_known_fails_its_cut() -> None:
    cuts = Thresholds("absolute", {"chosen_length": Range(high=100)})
    assert failed_metrics(rows((1, 1, 1)), cuts, METRICS) == [("chosen_length",)]


def test_bounds_hold_whichever_metrics_count_and_the_narrower_end_counts() -> None:
    table = np.arange(11.0)[:, None] * np.ones(WIDTH)
    bounds: dict[MetricName, Range] = {"m1": Range(low=2.0, high=9.0), "chosen_length": Range(high=7.0)}
    fitted = CutRule({"m1": Range(low=0.5)}, bounds).fit(table, "quantile")
    assert fitted.ranges() == {"m1": Range(5.0, 9.0), "chosen_length": Range(high=7.0)}
    assert fitted.ranges(["m2"]) == bounds
    assert failed_metrics(table[[3, 8]], fitted, ["m2"]) == [(), ("chosen_length",)]


def test_frozen_cuts_are_known_once_fitted_and_those_of_a_generation_never() -> None:
    first, second = np.full((5, WIDTH), 1.0), np.full((5, WIDTH), 2.0)
    frozen, anew = FrozenQuantile(rule(0.5)), PerGeneration(rule(0.5))
    assert frozen.known(0) is None
    fitted = frozen.fit(0, first)
    assert frozen.known(1) == fitted
    assert fitted.min_reward == 1.0
    assert anew.fit(0, first).min_reward == 1.0
    assert anew.fit(1, second).min_reward == 2.0
    assert anew.known(2) is None


def test_nothing_is_frozen_while_no_prompt_has_metrics() -> None:
    frozen = FrozenQuantile(rule(0.5))
    frozen.fit(0, np.empty((0, WIDTH)))
    assert frozen.known(1) is None


def test_annealed_cuts_rise_in_equal_steps_within_the_pool() -> None:
    pool = np.arange(101.0)[:, None] * np.ones(WIDTH)
    rules = annealed_rules(RIP_METRICS, first=0.5, last=0.8, generations=3, bounds={})
    policy = Annealed(rules)
    assert policy.known(0) is None
    assert policy.fit(0, pool).min_reward == 50.0
    lows = [policy.known(generation) for generation in range(5)]
    assert [cuts.min_reward for cuts in lows if cuts] == pytest.approx([50, 60, 70, 80, 80])
    assert [cuts.max_gap for cuts in lows if cuts] == pytest.approx([50, 40, 30, 20, 20])


def test_an_empty_generation_keeps_the_cuts_before() -> None:
    policy = PerGeneration(rule(0.5))
    before = policy.fit(0, np.full((5, WIDTH), 1.0))
    assert policy.fit(1, np.empty((0, WIDTH))) is before


def test_absolute_cuts_are_known_before_anything_is_sampled() -> None:
    cuts = Absolute(Thresholds("quantile", {"m1": Range(low=0.1)})).known(0)
    assert cuts is not None
    assert (cuts.min_reward, cuts.min_length, cuts.max_gap) == (0.1, None, None)


def test_pareto_keeps_whole_fronts_until_the_share_is_reached() -> None:
    table = rows((3, 3, 0), (2, 4, 0), (1, 1, 0), (2, 2, 0), (0, 0, 9))
    cuts = Pareto(quantile=0.5, bounds={}).fit(0, table)
    verdicts = outranked(table, cuts, RIP_METRICS)
    assert [not failed for failed in verdicts] == [True, True, False, True, False]
    assert verdicts[2] == RIP_METRICS


def test_pareto_keeps_a_share_that_a_float_does_not_hit_exactly() -> None:
    table = np.arange(10.0)[:, None] * np.ones(WIDTH)
    verdicts = outranked(table, Pareto(quantile=0.7, bounds={}).fit(0, table), ["m1"])
    assert sum(not failed for failed in verdicts) == 3


def test_pareto_ranks_spread_from_small_to_large() -> None:
    table = rows((0, 0, 0, 0, 0, 1.0), (0, 0, 0, 0, 0, 2.0))
    verdicts = outranked(table, Pareto(quantile=0.5, bounds={}).fit(0, table), ["reward_std"])
    assert verdicts == [(), ("reward_std",)]


def test_pareto_does_not_rank_what_is_only_bounded() -> None:
    table = np.zeros((2, WIDTH))
    table[:, METRICS.index("chosen_length")] = [100, 900]
    policy = Pareto(quantile=0.5, bounds={"chosen_length": Range(high=1e9)})
    assert outranked(table, policy.fit(0, table), RIP_METRICS) == [(), ()]
    narrow = Pareto(quantile=0.0, bounds={"chosen_length": Range(high=500)})
    assert outranked(table, narrow.fit(0, table), RIP_METRICS) == [(), ("chosen_length",)]


def test_pareto_ranks_only_the_metrics_that_count() -> None:
    table = rows((1, 9, 9), (2, 0, 9))
    cuts = Pareto(quantile=0.5, bounds={}).fit(0, table)
    assert outranked(table, cuts, ["m1"]) == [("m1",), ()]


@given(tables, st.floats(0, 0.9))
def test_pareto_survivors_are_never_dominated_by_the_rejected(table: np.ndarray, quantile: float) -> None:
    good = table[:, :3] * np.array([1, 1, -1])
    cuts = Pareto(quantile=quantile, bounds={}).fit(0, table)
    kept = np.array([not failed for failed in outranked(table, cuts, RIP_METRICS)])
    wanted = math.ceil((1 - Fraction(quantile).limit_denominator(10**6)) * len(table))
    assert kept.sum() >= wanted
    ranks = ranks_of(good)
    assert (ranks < ranks[kept].max()).sum() < wanted
    for row in good[kept]:
        assert not ((good[~kept] >= row).all(axis=1) & (good[~kept] > row).any(axis=1)).any()


def scored(text: str, diversity: float, m1: float = 1.0) -> Prompt:
    prompt = Prompt(text, Birth(operator="pool", generation=0, slot=0))
    prompt.diversity = diversity
    prompt.fitness.values = (m1, 1.0, 1.0, diversity)
    return prompt


def test_trimming_prefers_rank_then_diversity_then_id() -> None:
    best, plain = scored("best", 0.1, m1=5.0), scored("plain", 0.3)
    twins = sorted([scored("twin a", 0.2), scored("twin b", 0.2)], key=lambda prompt: prompt.id)
    dominated = scored("dominated", 0.05, m1=0.5)
    chosen = select_by_rank_and_diversity([dominated, *twins, plain, best], 4)
    assert chosen == [plain, best, twins[0], twins[1]]


def test_an_individual_without_fitness_goes_first() -> None:
    unscored = Prompt("unscored", Birth(operator="pool", generation=0, slot=0))
    assert select_by_rank_and_diversity([unscored, scored("scored", 0.1)], 1)[0].text == "scored"


@pytest.mark.parametrize("k", [0, 1, 3])
def test_trimming_gives_the_asked_number(k: int) -> None:
    assert len(select_by_rank_and_diversity([scored(str(i), 0.1) for i in range(3)], k)) == k
