"""The rejection rule: by cuts, and by Pareto rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fittest.evo.pareto import ranks_of
from fittest.evo.records import METRICS, RIP_METRICS, Range, Thresholds
from fittest.operators.policies import Pareto
from fittest.operators.rejection import failed_metrics, outranked

WIDTH = len(METRICS)
tables = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(WIDTH)), elements=st.floats(-100, 100, width=32))
RIP_CUTS = Thresholds("absolute", {"m1": Range(low=0.5), "m2": Range(low=10.0), "m3": Range(high=0.25)})


def rows(*values: Sequence[float]) -> np.ndarray:
    """Rows of metrics whose further columns are not known."""
    return np.array([[*row, *[np.nan] * (WIDTH - len(row))] for row in values])


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
