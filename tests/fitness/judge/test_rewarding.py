"""A reward as a judge."""

from __future__ import annotations

from fittest.evo.records import Missing
from fittest.fitness.judge.rewarding import reward_verdicts
from fittest.fitness.judge.verdict import Verdicts


def test_the_higher_reward_wins_in_both_orders_and_equal_or_missing_ones_decide_nothing() -> None:
    first = [1.0, 0.0, 2.0, Missing("too long"), float("nan")]
    second = [0.0, 1.0, 2.0, 1.0, 1.0]
    nothing = Verdicts(None, None)
    assert reward_verdicts(first, second) == [Verdicts("A", "B"), Verdicts("B", "A"), nothing, nothing, nothing]
