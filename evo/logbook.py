"""The metrics of many prompts as one table, and what selection did to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt


def metric_values(prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """Metrics of the prompts that have some, in the order of `METRICS`, shape (prompts, len(METRICS))."""
    return values_of(prompt.metrics for prompt in prompts)


def values_of(metrics: Iterable[Metrics | None]) -> NDArray[np.float64]:
    """Those metrics that there are, in the order of `METRICS`, shape (prompts, len(METRICS))."""
    rows = [each.values for each in metrics if each is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, len(METRICS))


def selection_intensity(evaluated: NDArray[np.float64], passed: NDArray[np.float64]) -> list[float | None]:
    """(mean of survivors − mean of evaluated) / standard deviation of evaluated, for each metric; None undefined."""
    if not len(passed):
        return [None] * evaluated.shape[1]
    spread = evaluated.std(axis=0)
    shift = passed.mean(axis=0) - evaluated.mean(axis=0)
    noise = 1e-12 * np.abs(evaluated).max(axis=0)
    return [float(s / d) if d > n else None for s, d, n in zip(shift, spread, noise, strict=True)]
