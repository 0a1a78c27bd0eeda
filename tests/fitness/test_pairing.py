"""Pairings draw the rejected response from where their name says, the same one every time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.pairing import parse_pairing

rows = st.lists(
    st.lists(
        st.one_of(st.integers(0, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf])),
        min_size=1,
        max_size=9,
    ),
    min_size=1,
    max_size=5,
)


@given(
    rows, st.sampled_from(["best-random", "best-bottom:0.25", "best-bottom:0.5", "best-bottom:1"]), st.integers(0, 9)
)
def test_the_rejected_response_is_one_of_the_lowest_and_never_the_chosen(
    table: list[list[float]], name: str, seed: int
) -> None:
    pairing = parse_pairing(name)
    flat, counts = np.array([r for row in table for r in row]), np.array([len(row) for row in table])
    ids = [f"{i:016x}" for i in range(len(table))]
    draws = pairing.draws(seed, ids)
    found = rip_metrics(flat, np.arange(len(flat)), counts, pairing=pairing, draws=draws)
    start = 0
    for i, row in enumerate(table):
        scored = sorted((reward, start + k) for k, reward in enumerate(row) if math.isfinite(reward))
        if len(scored) >= 2:
            chosen = found.chosen[i]
            others = [position for _, position in scored if position != chosen]
            lowest = others[: max(1, math.ceil((pairing.bottom or 0) * len(scored) - 1e-9))]
            assert found.rejected[i] in lowest
            assert found.of("m1")[i] == flat[found.rejected[i]]
            assert found.of("m3")[i] == flat[chosen] - found.of("m1")[i]
        start += len(row)


def test_every_eligible_response_is_drawn_sooner_or_later() -> None:
    pairing = parse_pairing("best-bottom:0.5")
    flat = np.arange(8.0)
    drawn = set()
    for seed in range(60):
        draws = pairing.draws(seed, ["0" * 16])
        found = rip_metrics(flat, np.arange(8), np.array([8]), pairing=pairing, draws=draws)
        drawn.add(int(found.rejected[0]))
    assert drawn == {0, 1, 2, 3}


def test_a_draw_depends_on_seed_and_prompt_alone() -> None:
    pairing = parse_pairing("best-random")
    one, two = pairing.draws(3, ["a1", "b2"]), pairing.draws(3, ["b2"])
    assert one is not None
    assert two is not None
    assert one[1] == two[0]


@pytest.mark.parametrize("name", ["best", "best-bottom", "best-bottom:0", "best-bottom:1.5", "best-bottom:half"])
def test_unknown_pairings_are_refused(name: str) -> None:
    with pytest.raises(FittestError, match="best-bottom:FRACTION"):
        parse_pairing(name)
