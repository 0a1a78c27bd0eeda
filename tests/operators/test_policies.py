"""Threshold policies: the cuts that each of them makes, and when they are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range, Thresholds
from fittest.operators.policies import (
    Absolute,
    Annealed,
    CutRule,
    FrozenQuantile,
    PerGeneration,
    annealed_rules,
    levels_for,
)
from fittest.operators.rejection import failed_metrics
from fittest.operators.tightening import Tightening

WIDTH = len(METRICS)
tables = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(WIDTH)), elements=st.floats(-100, 100, width=32))


def rule(quantile: float, metrics: Sequence[MetricName] = RIP_METRICS) -> CutRule:
    return CutRule(levels_for(metrics, quantile), quantile=quantile)


@given(tables, st.floats(0, 0.9))
def test_each_metric_alone_cuts_no_more_than_its_share(table: np.ndarray, quantile: float) -> None:
    cuts = rule(quantile, METRICS).fit(table, "quantile")
    for name in METRICS:
        failed = sum(name in names for names in failed_metrics(table, cuts, [name]))
        assert failed <= math.ceil(quantile * (len(table) - 1) + 1e-9)


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


def tightening(target: float, metrics: Sequence[MetricName] = RIP_METRICS) -> Tightening:
    return Tightening(rule(0.5), metrics=metrics, target_pass_rate=target)


@given(tables, tables, st.floats(0.05, 0.95))
def test_tightened_cuts_pass_at_least_the_wanted_share_and_are_never_looser(
    pool: np.ndarray, survivors: np.ndarray, target: float
) -> None:
    policy = tightening(target)
    policy.fit(0, pool)
    before = policy.known(1)
    assert before is not None
    passed = survivors[[not failed for failed in failed_metrics(survivors, before, RIP_METRICS)]]
    policy.learn(passed, len(survivors))
    after = policy.known(2)
    assert after is not None
    for name, ends in after.cuts.items():
        assert ends == before.cuts[name].within(ends)
    again = sum(not failed for failed in failed_metrics(passed, after, RIP_METRICS))
    assert again >= min(target * len(survivors), len(passed)) - 1e-9


def test_cuts_stay_until_more_pass_than_wanted() -> None:
    policy = tightening(0.5)
    policy.fit(0, np.arange(41.0)[:, None] * np.ones(WIDTH))
    first = policy.known(1)
    policy.learn(np.full((20, WIDTH), 20.0), 40)
    policy.learn(np.full((7, WIDTH), 20.0), 7)
    assert policy.known(2) == first


def test_a_level_that_half_of_a_generation_passes_is_found_for_all_metrics_together() -> None:
    draws = np.random.default_rng(3).normal(size=(4000, WIDTH))
    policy = Tightening(rule(0.0), metrics=RIP_METRICS, target_pass_rate=0.5)
    policy.fit(0, draws)
    policy.learn(draws, len(draws))
    cuts = policy.known(1)
    assert cuts is not None
    passed = sum(not failed for failed in failed_metrics(draws, cuts, RIP_METRICS)) / len(draws)
    assert passed == pytest.approx(0.5, abs=0.002)
    # three independent metrics, each of which alone lets the cube root of a half pass
    assert (draws[:, 0] >= (cuts.min_reward or 0.0)).mean() == pytest.approx(0.5 ** (1 / 3), abs=0.02)


def test_only_metrics_that_count_for_offspring_are_tightened() -> None:
    draws = np.random.default_rng(3).normal(size=(400, WIDTH))
    policy = tightening(0.3, metrics=["m1"])
    pool = policy.fit(0, draws)
    policy.learn(draws[draws[:, 0] >= (pool.min_reward or 0.0)], len(draws))
    cuts = policy.known(1)
    assert cuts is not None
    assert (cuts.min_reward or 0.0) > (pool.min_reward or 0.0)
    assert (cuts.min_length, cuts.max_gap) == (pool.min_length, pool.max_gap)


def test_the_cuts_of_a_generation_are_settled_when_it_begins() -> None:
    draws = np.random.default_rng(3).normal(size=(400, WIDTH))
    policy = tightening(0.05)
    policy.fit(0, draws)
    begun = policy.known(2)
    policy.learn(draws, len(draws))
    assert policy.known(2) == begun
    assert policy.known(3) != begun


def test_another_judge_begins_the_tightening_anew() -> None:
    draws = np.random.default_rng(3).normal(size=(400, WIDTH))
    policy = tightening(0.05)
    policy.fit(0, draws)
    policy.learn(draws, len(draws))
    other = policy.fit(0, draws - 100)
    assert policy.known(2) == other
