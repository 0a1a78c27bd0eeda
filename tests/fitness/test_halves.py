"""Half draws are halves: of each prompt's own scored responses, without overlap, each choice equally likely."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.records import METRICS
from fittest.fitness.halves import HalfDraws
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.pairing import parse_pairing

responses = st.tuples(st.one_of(st.integers(-2, 2).map(float), st.just(math.nan)), st.integers(0, 9))
tables = st.lists(st.lists(responses, min_size=1, max_size=7), min_size=1, max_size=5)
pairings = st.sampled_from(["best-worst", "best-random", "best-bottom:0.5"])


@given(tables, pairings, st.integers(0, 5))
def test_metrics_are_those_of_two_disjoint_halves(table: list[list[tuple[float, int]]], name: str, seed: int) -> None:
    pairing = parse_pairing(name)
    draws = pairing.draws(0, [f"{i:016x}" for i in range(len(table))])
    halves = HalfDraws(
        np.array([reward for prompt in table for reward, _ in prompt]),
        np.array([length for prompt in table for _, length in prompt]),
        np.array([len(prompt) for prompt in table]),
        pairing=pairing,
        draws=draws,
        metrics=METRICS,
        rng=np.random.default_rng(seed),
    )
    one, other = halves.split(np.random.default_rng(seed))
    for i, prompt in enumerate(table):
        scored = [pair for pair in prompt if not math.isnan(pair[0])]
        assert halves.n[i] == len(scored)
        if len(scored) < 4:
            assert np.isnan([one[i], other[i]]).all()
            continue
        size, places = len(scored) // 2, set(range(len(scored)))
        draw = None if draws is None else draws[i : i + 1]

        def metrics(half: tuple[int, ...], scored: list = scored, draw: np.ndarray | None = draw) -> np.ndarray:
            taken = [scored[place] for place in half]
            rewards, lengths = np.array([r for r, _ in taken]), np.array([length for _, length in taken])
            return rip_metrics(rewards, lengths, np.array([len(taken)]), pairing=pairing, draws=draw).values[0]

        assert any(
            np.allclose(metrics(first), one[i]) and np.allclose(metrics(second), other[i])
            for first in combinations(sorted(places), size)
            for second in combinations(sorted(places - set(first)), size)
        )


@pytest.mark.parametrize("others", [[4], [5, 7, 8], [300]])
def test_every_half_is_equally_likely_whatever_the_other_prompts(others: list[int]) -> None:
    counts = np.array([6, *others])
    rewards = np.concatenate([np.arange(float(count)) for count in counts])
    halves = HalfDraws(rewards, np.zeros(len(rewards), dtype=np.int64), counts, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    seen: Counter[tuple[float, ...]] = Counter()
    for _ in range(2000):
        for half in halves.split(rng):
            seen[tuple(half[0, [0, 2]])] += 1
    # of the 20 halves of 6 responses, so many have this worst response and this gap
    expected = Counter((float(half[0]), float(half[2] - half[0])) for half in combinations(range(6), 3))
    assert seen.keys() == expected.keys()
    for key, count in expected.items():
        assert abs(seen[key] / 4000 - count / 20) < 0.03


def test_halves_of_two_prompts_do_not_move_together() -> None:
    rewards = np.tile(np.arange(6.0), 9)
    halves = HalfDraws(rewards, np.zeros(54, dtype=np.int64), np.full(9, 6), rng=np.random.default_rng(3))
    worst = np.array([halves.split(np.random.default_rng(seed))[0][:, 0] for seed in range(400)])
    correlation = np.corrcoef(worst.T)[np.triu_indices(9, 1)]
    assert np.abs(correlation).mean() < 0.2
