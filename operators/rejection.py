"""Applies the rejection rule of RIP: a prompt survives when each metric that counts is on the good side of its cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fittest.evo.pareto import ranks_of
from fittest.evo.records import METRICS, SMALL_IS_GOOD, MetricName, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FitsCuts(Protocol):
    """Fits cuts to prompts, as `fittest.operators.policies.CutRule` does."""

    def fit(self, values: NDArray[np.float64], policy: str) -> Thresholds:
        """Returns the cuts for metrics of shape (prompts, len(METRICS)); `policy` is recorded with them."""
        ...


def failures(values: NDArray[np.float64], thresholds: Thresholds, metrics: Sequence[MetricName]) -> NDArray[np.bool_]:
    """Tells which metric of which prompt lies outside its cuts (arXiv 2501.18578, section 3.3.1).

    Args:
        values: metrics in the order of `METRICS`, shape (prompts, len(METRICS)).
        thresholds: the cuts.
        metrics: the metrics whose cuts count; bounds apply to all.

    Returns:
        True where a metric fails, shape (prompts, len(METRICS)); an unknown value (NaN) fails its cut.
    """
    failed = np.zeros(values.shape, dtype=bool)
    for name, (low, high) in thresholds.ranges(metrics).items():
        column = METRICS.index(name)
        # "not inside" instead of "outside", so that NaN, which is neither, fails
        if low is not None:
            failed[:, column] |= ~(values[:, column] >= low)
        if high is not None:
            failed[:, column] |= ~(values[:, column] <= high)
    return failed


def rule_that_keeps(
    rule: FitsCuts | Thresholds, metrics: Sequence[MetricName]
) -> Callable[[NDArray[np.float64]], NDArray[np.bool_]]:
    """Returns a function that tells which prompts of a table survive, and fits the cuts to each table it is given.

    Args:
        rule: a rule that fits the cuts to the prompts with metrics, or cuts that are known beforehand.
        metrics: the metrics whose cuts count.

    Returns:
        A function of the metrics of all prompts, shape (prompts, len(METRICS)); a row of NaN has no metrics and never
        survives.
    """

    def keep(values: NDArray[np.float64]) -> NDArray[np.bool_]:
        there = ~np.isnan(values[:, 0])
        cuts = rule if isinstance(rule, Thresholds) else rule.fit(values[there], "quantile")
        survives: NDArray[np.bool_] = there & ~failures(values, cuts, metrics).any(axis=1)
        return survives

    return keep


def failed_metrics(
    values: NDArray[np.float64], thresholds: Thresholds, metrics: Sequence[MetricName]
) -> list[tuple[MetricName, ...]]:
    """Returns the names of the failed metrics of each prompt; a prompt without any survives.

    Args:
        values: metrics in the order of `METRICS`, shape (prompts, len(METRICS)).
        thresholds: the cuts.
        metrics: the metrics whose cuts count; bounds apply to all.
    """
    return failure_names(failures(values, thresholds, metrics))


def failure_names(failed: NDArray[np.bool_]) -> list[tuple[MetricName, ...]]:
    """Returns the names of the metrics that are True in each row of `failures`."""
    return [tuple(name for name, fails in zip(METRICS, row, strict=True) if fails) for row in failed.tolist()]


def outranked(
    values: NDArray[np.float64], thresholds: Thresholds, metrics: Sequence[MetricName]
) -> list[tuple[MetricName, ...]]:
    """Rejects by Pareto rank: whole fronts survive, best first, until a share of 1 − quantile has been reached.

    A prompt of a later front fails by all metrics that were ranked, since no single one decided. Bounds apply as well,
    and are not ranked.

    Args:
        values: metrics in the order of `METRICS`, shape (prompts, len(METRICS)).
        thresholds: the quantile and the bounds.
        metrics: the metrics that count, which are ranked.

    Returns:
        The names of the failed metrics of each prompt; a prompt without any survives.
    """
    failed = failures(values, thresholds, metrics)
    columns = np.array([column for column, name in enumerate(METRICS) if name in metrics])
    signs = np.array([-1.0 if METRICS[column] in SMALL_IS_GOOD else 1.0 for column in columns.tolist()])
    inside = np.flatnonzero(~failed.any(axis=1))
    ranks = ranks_of(values[np.ix_(inside, columns)] * signs)
    wanted = np.ceil((1.0 - (thresholds.quantile or 0.0)) * len(values) - 1e-9)  # 0.3 × 10 is a little more than 3
    better = np.array([(ranks < rank).sum() for rank in ranks])
    failed[np.ix_(inside[better >= wanted], columns)] = True
    return failure_names(failed)
