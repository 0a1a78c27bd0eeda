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
