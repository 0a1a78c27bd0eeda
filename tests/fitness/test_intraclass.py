"""The intraclass correlation is that of the textbook, and of a world in which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.fitness.intraclass import intraclass


def test_it_is_that_of_shrout_and_fleiss() -> None:
    """Their Table 2: six targets, four judges; ICC(1, 1) is .17."""
    table = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    assert intraclass(table) == pytest.approx(0.17, abs=0.005)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_it_is_the_share_of_the_variance_between_prompts(share: float) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(4000, 1)) * np.sqrt(share)
    assert intraclass(truth + rng.normal(size=(4000, 2)) * np.sqrt(1 - share)) == pytest.approx(share, abs=0.04)


def test_equal_values_have_none_and_opposite_halves_a_negative_one() -> None:
    assert intraclass(np.ones((5, 2))) is None
    assert intraclass(np.array([[1.0, -1.0], [-1.0, 1.0]])) == pytest.approx(-1.0)
    assert intraclass(np.array([[1.0, 1.0], [2.0, 2.0]])) == pytest.approx(1.0)
