"""Repeatability says how much of a table is the prompts' own, and how much is luck."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fittest.evo.records import Range, Thresholds
from fittest.fitness.halves import HalfDraws
from fittest.fitness.repeatability import repeatability, stability
from fittest.operators.policies import CutRule, levels_for
from fittest.operators.rejection import rule_that_keeps

RIP = ("m1", "m2", "m3")
MEDIANS = rule_that_keeps(CutRule(levels_for(RIP, 0.5)), RIP)


def answered(prompts: int, n: int, between: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rewards and lengths of which a share `between` of the variance is the prompts' own."""
    rng = np.random.default_rng(seed)
    own, luck = np.sqrt(between), np.sqrt(1 - between)
    rewards = own * rng.normal(size=(prompts, 1)) + luck * rng.normal(size=(prompts, n))
    lengths = np.exp(5 + own * rng.normal(size=(prompts, 1)) + luck * rng.normal(size=(prompts, n)))
    return rewards.ravel(), lengths.astype(np.int64).ravel(), np.full(prompts, n)


def test_luck_alone_repeats_as_often_as_anything_is_kept() -> None:
    rewards, lengths, counts = answered(8000, 8, between=0.0)
    found = repeatability(rewards, lengths, counts, keep=MEDIANS)
    assert all(abs(found[name]) < 0.05 for name in RIP)
    kept = np.mean(stability(halves_of(rewards, lengths, counts), MEDIANS).keep_share)
    assert found["survive"]["share"] == pytest.approx(kept, abs=0.03)
    assert found["survive"]["splits"] == 50


def test_prompts_that_always_answer_alike_repeat_themselves() -> None:
    rewards, lengths, counts = answered(300, 8, between=1.0)
    found = repeatability(rewards, lengths, counts, keep=MEDIANS)
    assert found["m1"] == pytest.approx(1.0)
    assert found["m2"] == pytest.approx(1.0)
    assert found["survive"]["share"] == pytest.approx(1.0)
    assert found["survive"]["low"] < 1.0


def test_the_correlation_is_that_of_two_fresh_draws_of_half_the_size() -> None:
    rewards, lengths, counts = answered(4000, 6, between=0.5)
    first, second = (answered_minima(4000, 3, 0.5, seed) for seed in (1, 2))
    assert repeatability(rewards, lengths, counts, keep=MEDIANS)["m1"] == pytest.approx(
        np.corrcoef(first, second)[0, 1], abs=0.03
    )


def answered_minima(prompts: int, n: int, between: float, seed: int) -> np.ndarray:
    """Returns the least of n fresh rewards of each of the same prompts as in `answered`."""
    own = np.sqrt(between) * np.random.default_rng(0).normal(size=(prompts, 1))
    return (own + np.sqrt(1 - between) * np.random.default_rng(seed).normal(size=(prompts, n))).min(axis=1)


def halves_of(rewards: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> HalfDraws:
    """Returns the half draws of a table."""
    return HalfDraws(rewards, lengths, counts, rng=np.random.default_rng(0))


def test_the_same_seed_gives_the_same_figures() -> None:
    table = answered(60, 5, between=0.4)
    one, same, other = (repeatability(*table, keep=MEDIANS, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_what_cannot_be_said_is_null_with_the_reason() -> None:
    rewards, lengths, counts = answered(50, 3, between=0.5)
    found = repeatability(rewards, lengths, counts, keep=MEDIANS)
    assert [found[key] for key in (*RIP, "survive")] == [None] * 4
    assert "4 scored responses" in found["notes"]["survive"]

    found = repeatability(*answered(50, 6, between=0.5), keep="survival goes by Pareto rank")
    assert found["survive"] is None
    assert found["notes"] == {"survive": "survival goes by Pareto rank"}
    assert 0 < found["m1"] < 1

    impossible = rule_that_keeps(Thresholds("absolute", {"m1": Range(low=99.0)}), ["m1"])
    found = repeatability(*answered(50, 6, between=0.5), keep=impossible)
    assert "no prompt is kept" in found["notes"]["survive"]

    found = repeatability(np.full(40, 0.5), np.full(40, 7), np.full(10, 4), keep=MEDIANS)
    assert found["m1"] is None
    assert "equal" in found["notes"]["m1"]
    json.dumps(found, allow_nan=False)


def test_very_large_rewards_do_not_overflow() -> None:
    rewards, lengths, counts = answered(50, 6, between=0.5)
    small = repeatability(rewards, lengths, counts, keep=MEDIANS)
    large = repeatability(rewards * 1e100, lengths, counts, keep=MEDIANS)
    assert large["m1"] == pytest.approx(small["m1"])


def test_prompts_with_few_responses_have_no_share_and_do_not_count() -> None:
    rewards, lengths, counts = answered(40, 6, between=0.5)
    with_more = (np.append(rewards, [9.0, 9.0, 9.0]), np.append(lengths, [1, 1, 1]), np.append(counts, 3))
    assert np.isnan(stability(halves_of(*with_more), MEDIANS).keep_share[-1])
    assert repeatability(*with_more, keep=MEDIANS)["m1"] is not None
