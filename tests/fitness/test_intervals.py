"""An interval of a counted share covers the true one about as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.fitness.intervals import wilson


def test_wilson_covers_the_true_share_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).binomial(60, 0.8, size=4000)
    ends = {count: wilson(count / 60, 60) for count in set(draws.tolist())}
    covered = np.mean([ends[count][0] <= 0.8 <= ends[count][1] for count in draws.tolist()])
    assert 0.93 <= covered <= 0.97
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
