"""Uses a reward as a judge: the answer with the higher reward wins, whichever is shown first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fittest.evo.records import Missing
from fittest.fitness.judge.verdict import Side, Verdicts, other

if TYPE_CHECKING:
    from collections.abc import Sequence


def reward_verdicts(
    first: Sequence[float | Missing | None], second: Sequence[float | Missing | None]
) -> list[Verdicts]:
    """Returns verdicts from the rewards of both answers of each pair; equal or missing rewards give none."""
    return [_verdicts(*rewards) for rewards in zip(first, second, strict=True)]


def _verdicts(first: float | Missing | None, second: float | Missing | None) -> Verdicts:
    winner = preferred(first, second)
    return Verdicts(None, None) if winner is None else Verdicts(winner, other(winner))


def preferred(first: float | Missing | None, second: float | Missing | None) -> Side | None:
    """Returns the side with the higher reward; None where they are equal or one is missing."""
    # NaN is neither above nor below any number
    a, b = (math.nan if reward is None or isinstance(reward, Missing) else reward for reward in (first, second))
    return "A" if a > b else "B" if b > a else None
