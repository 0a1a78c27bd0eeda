"""Tells a trend over generations from the noise between prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Moments:
    """Holds what a trend needs of the values of a generation.

    Attributes:
        n: the number of values.
        mean: their mean; NaN without any.
        variance: their sample variance; NaN of fewer than two.
    """

    n: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Returns the moments of some values, which depend on their order in the last bits."""
        n = len(values)
        mean = float(np.mean(values)) if n else math.nan
        return cls(n, mean, float(np.var(values, ddof=1)) if n > 1 else math.nan)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Returns the 95 % interval of the mean, by Student's t; None of fewer than two values."""
        if self.n < 2:
            return None
        from scipy.special import stdtrit

        half = float(stdtrit(self.n - 1, 0.975)) * math.sqrt(self.variance / self.n)
        return self.mean - half, self.mean + half


class Trend(NamedTuple):
    """Holds a straight line through the means of generations.

    Attributes:
        slope: the change from one generation to the next.
        error: the standard error of the slope.
        rises: the chance of so large a slope, or a larger one, if there is no trend.
        falls: the chance of so small a slope, or a smaller one.
    """

    slope: float
    error: float
    rises: float
    falls: float


def trend_of(points: Mapping[int, Moments]) -> Trend | None:
    """Returns the trend over generations, each weighted by its number of values.

    Generations may differ in spread, and their values in number, so that the degrees of freedom are those of
    Satterthwaite (1946).

    Args:
        points: the moments of each generation, by its number.

    Returns:
        None unless two generations have at least two values.
    """
    known = {number: one for number, one in points.items() if one.n > 1}
    if len(known) < 2:
        return None
    x = np.array(list(known), dtype=np.float64)
    n = np.array([one.n for one in known.values()], dtype=np.float64)
    means = np.array([one.mean for one in known.values()])
    x -= np.average(x, weights=n)
    weights = n * x / (n @ x**2)
    parts = weights**2 * np.array([one.variance for one in known.values()]) / n
    slope, error = float(weights @ means), math.sqrt(parts.sum())
    # without any spread, what the means differ by is no noise, but for rounding
    if error <= 1e-12 * np.abs(means).max():
        certain = abs(slope) > 1e-9 * float(np.abs(means).max())
        return Trend(slope, error, *((0.0, 1.0) if slope > 0 else (1.0, 0.0)) if certain else (1.0, 1.0))
    from scipy.special import stdtr

    falls = float(stdtr(parts.sum() ** 2 / (parts**2 / (n - 1)).sum(), slope / error))
    return Trend(slope, error, 1.0 - falls, falls)
