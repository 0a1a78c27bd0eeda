"""The rejection rule of RIP: a prompt survives when each metric used is on the good side of its cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evo.records import METRICS, MetricName, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def failures(values: NDArray[np.float64], thresholds: Thresholds, metrics: Sequence[MetricName]) -> NDArray[np.bool_]:
    """Which metric of which prompt fails: m1 and m2 below their cut, m3 above it (arXiv 2501.18578, section 3.3.1).

    Args:
        values: m1, m2, m3, shape (prompts, 3).
        thresholds: the cuts; None does not cut.
        metrics: the metrics that count.

    Returns:
        Shape (prompts, 3).
    """
    failed = np.zeros(values.shape, dtype=bool)
    for column, (name, cut) in enumerate(
        zip(METRICS, (thresholds.min_reward, thresholds.min_length, thresholds.max_gap), strict=True)
    ):
        if cut is not None and name in metrics:
            failed[:, column] = values[:, column] > cut if name == "m3" else values[:, column] < cut
    return failed


def failed_metrics(
    values: NDArray[np.float64], thresholds: Thresholds, metrics: Sequence[MetricName]
) -> list[tuple[MetricName, ...]]:
    """The names of the failed metrics of each prompt; none failed is survival."""
    return [
        tuple(name for name, fails in zip(METRICS, row, strict=True) if fails)
        for row in failures(values, thresholds, metrics).tolist()
    ]
