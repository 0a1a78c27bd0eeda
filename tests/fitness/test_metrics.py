"""The RIP metrics are what the paper says, also with ties and missing rewards."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fittest.fitness.lengths import residual_rewards
from fittest.fitness.metrics import rip_metrics

rewards = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf), st.just(-math.inf)
)
tables = st.lists(st.lists(st.tuples(rewards, st.integers(0, 500)), min_size=1, max_size=9), min_size=1, max_size=8)


@given(tables)
def test_agrees_with_one_prompt_at_a_time_in_plain_python(table: list[list[tuple[float, int]]]) -> None:
    flat = [pair for prompt in table for pair in prompt]
    found = rip_metrics(
        np.array([reward for reward, _ in flat]),
        np.array([length for _, length in flat]),
        np.array([len(prompt) for prompt in table]),
    )
    start = 0
    for i, prompt in enumerate(table):
        scored = [(reward, start + k) for k, (reward, _) in enumerate(prompt) if math.isfinite(reward)]
        assert found.n[i] == len(scored)
        if len(scored) < 2:
            assert np.isnan(found.values[i]).all()
            assert found.chosen[i] == found.rejected[i] == -1
        else:
            best = max(scored, key=lambda pair: (pair[0], -pair[1]))
            worst = min(scored)
            assert (found.chosen[i], found.rejected[i]) == (best[1], worst[1])
            assert found.of("m1")[i] == worst[0]
            assert found.of("m2")[i] == flat[worst[1]][1]
            assert found.of("m3")[i] == best[0] - worst[0]
        start += len(prompt)


def test_equal_rewards_make_the_first_response_best_and_worst() -> None:
    found = rip_metrics(np.array([0.5, 0.5, 0.5]), np.array([10, 20, 30]), np.array([3]))
    assert (found.chosen[0], found.rejected[0]) == (0, 0)
    assert found.of("m2")[0] == 10
    assert found.of("m3")[0] == 0.0


def test_a_missing_reward_is_never_the_minimum() -> None:
    found = rip_metrics(np.array([np.nan, 0.2, -np.inf, 0.9]), np.array([1, 2, 3, 4]), np.array([4]))
    assert found.of("m1")[0] == 0.2
    assert found.rejected[0] == 1
    assert found.n[0] == 2


def test_average_spread_and_the_chosen_response_are_those_of_numpy() -> None:
    rewards, lengths = np.array([0.5, np.nan, 2.0, 1.0, 7.0, 9.0]), np.array([5, 6, 7, 8, 9, 10])
    found = rip_metrics(rewards, lengths, np.array([4, 2]))
    assert found.of("average_reward").tolist() == [np.mean([0.5, 2.0, 1.0]), 8.0]
    np.testing.assert_allclose(found.of("reward_std"), [np.std([0.5, 2.0, 1.0]), 1.0])
    assert found.of("chosen_reward").tolist() == [2.0, 9.0]
    assert found.of("chosen_length").tolist() == [7, 10]


def test_residuals_do_not_correlate_with_length_and_keep_the_mean() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 900, size=200)
    rewards = 0.01 * lengths + rng.normal(size=200)
    rewards[::17] = np.nan
    residuals = residual_rewards(rewards, lengths)
    there = np.isfinite(rewards)
    assert (np.isfinite(residuals) == there).all()
    assert abs(np.corrcoef(residuals[there], lengths[there])[0, 1]) < 1e-9
    assert math.isclose(residuals[there].mean(), rewards[there].mean())


def test_residuals_of_equal_lengths_or_of_nothing_are_the_rewards() -> None:
    same = np.array([1.0, 2.0, 3.0])
    assert residual_rewards(same, np.array([5, 5, 5])).tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(residual_rewards(np.array([np.nan]), np.array([5]))).all()


@given(st.floats(-10, 10), st.integers(2, 20))
def test_equal_rewards_have_their_reward_as_mean_and_no_spread(reward: float, n: int) -> None:
    rewards = np.array([reward] * n + [math.nan])
    metrics = rip_metrics(rewards, np.ones(n + 1, dtype=np.int64), np.array([n + 1]))
    assert metrics.of("average_reward").tolist() == [reward]
    assert metrics.of("reward_std").tolist() == [0.0]
