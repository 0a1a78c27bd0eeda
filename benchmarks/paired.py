"""Compares arms that are paired by seed: mean differences with intervals, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """How much one arm differs from another.

    Attributes:
        one: an arm.
        other: the arm that is subtracted from it.
        mean: the mean difference over the seeds.
        low, high: the ends of its 95 % interval, by Student's t.
        p: two-sided, for all comparisons that were made together (Holm 1979).
    """

    one: str
    other: str
    mean: float
    low: float
    high: float
    p: float


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean and the ends of its 95 % interval, by Student's t."""
    found = np.asarray(values)
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    mean = found.mean()
    return float(mean), float(mean - half), float(mean + half)


def compared(values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Returns a comparison for each pair of arms.

    Args:
        values: the outcome of each arm, in the order of the seeds.
        pairs: the arms that are compared.
    """
    differences = [np.asarray(values[one]) - np.asarray(values[other]) for one, other in pairs]
    chances = holm([chance(difference) for difference in differences])
    return [
        Comparison(*pair, *interval(difference.tolist()), p)
        for pair, difference, p in zip(pairs, differences, chances, strict=True)
    ]


def chance(differences: np.ndarray) -> float:
    """Returns the two-sided p value of a t test of differences against zero."""
    if not differences.std():
        # arms that never differ give no reason to tell them apart, and the test is not defined
        return float(not differences.any())
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """Returns p values that hold for all tests together, by Holm's step-down procedure."""
    order = np.argsort(chances)
    scaled = np.asarray(chances)[order] * np.arange(len(chances), 0, -1)
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]
