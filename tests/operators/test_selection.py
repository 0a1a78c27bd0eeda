"""Cuts, the rejection rule and trimming."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evo.prompt import Prompt
from evo.records import METRICS, Birth, Thresholds
from operators.policies import Absolute, FrozenQuantile, PerGeneration
from operators.rejection import failed_metrics
from operators.trimming import select_by_rank_and_diversity

values = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-100, 100, width=32))


@given(values, st.floats(0, 0.9))
def test_each_metric_alone_cuts_no_more_than_its_share(table: np.ndarray, quantile: float) -> None:
    cuts = FrozenQuantile(quantile=quantile).thresholds(table, None)
    for name in METRICS:
        failed = sum(name in names for names in failed_metrics(table, cuts, [name]))
        assert failed <= math.ceil(quantile * (len(table) - 1) + 1e-9)


def test_cuts_are_inclusive() -> None:
    cuts = Thresholds("absolute", min_reward=0.5, min_length=10.0, max_gap=0.25)
    table = np.array([[0.5, 10, 0.25], [0.4999, 9, 0.2501]])
    assert failed_metrics(table, cuts, METRICS) == [(), ("m1", "m2", "m3")]


def test_only_the_metrics_used_count() -> None:
    cuts = Thresholds("absolute", min_reward=0.5, min_length=10.0, max_gap=0.25)
    assert failed_metrics(np.array([[0.9, 50, 0.9]]), cuts, ["m1", "m2"]) == [()]


def test_a_frozen_policy_keeps_its_first_cuts_and_the_other_does_not() -> None:
    first, second = np.full((5, 3), 1.0), np.full((5, 3), 2.0)
    frozen, anew = FrozenQuantile(quantile=0.5), PerGeneration(quantile=0.5)
    assert frozen.thresholds(second, frozen.thresholds(first, None)).min_reward == 1.0
    assert anew.thresholds(second, anew.thresholds(first, None)).min_reward == 2.0


def test_an_empty_generation_keeps_the_cuts_before() -> None:
    policy = PerGeneration(quantile=0.5)
    before = policy.thresholds(np.full((5, 3), 1.0), None)
    assert policy.thresholds(np.empty((0, 3)), before) is before


def test_absolute_cuts_ignore_the_values() -> None:
    cuts = Absolute(min_reward=0.1).thresholds(np.full((5, 3), 9.0), None)
    assert (cuts.min_reward, cuts.min_length, cuts.max_gap) == (0.1, None, None)


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
