"""What the benchmarks claim: paired differences, and p values that hold for many comparisons together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.paired import chance, compared, holm, interval


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_arms_without_a_difference_are_rarely_told_apart_in_many_comparisons() -> None:
    rng = np.random.default_rng(1)
    arms = [f"arm {number}" for number in range(8)]
    pairs = [(arms[0], other) for other in arms[1:]]
    claims = 0
    for _ in range(400):
        shared = rng.normal(size=20)
        values = {arm: (shared + rng.normal(size=20)).tolist() for arm in arms}
        claims += any(comparison.p < 0.05 for comparison in compared(values, pairs))
    assert 2 <= claims <= 28


def test_a_difference_is_found_though_the_seeds_differ_by_more() -> None:
    rng = np.random.default_rng(2)
    seeds = rng.normal(scale=5, size=40)
    values = {"a": (seeds + 0.5 + rng.normal(scale=0.3, size=40)).tolist(), "b": seeds.tolist()}
    (found,) = compared(values, [("a", "b")])
    assert (found.one, found.other) == ("a", "b")
    assert found.low < 0.5 < found.high
    assert found.p < 1e-6


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(3).normal(size=12)
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert interval(values.tolist()) == pytest.approx((values.mean(), *expected))


def test_arms_that_never_differ_give_no_reason_to_claim_anything() -> None:
    assert chance(np.zeros(5)) == 1.0
    assert chance(np.ones(5)) == 0.0
