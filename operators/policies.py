"""Threshold policies: where the cuts of each generation come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evo.records import Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fit_quantile(values: NDArray[np.float64], quantile: float, policy: str) -> Thresholds:
    """Cuts that each metric alone would let 1 − quantile of the prompts pass.

    Args:
        values: m1, m2, m3 of prompts with metrics, shape (prompts, 3).
        quantile: the share each metric may cut, in [0, 1).
        policy: the name to record.
    """
    if not len(values):
        return Thresholds(policy, None, None, None, quantile=quantile)
    return Thresholds(
        policy=policy,
        min_reward=float(np.quantile(values[:, 0], quantile)),
        min_length=float(np.quantile(values[:, 1], quantile)),
        max_gap=float(np.quantile(values[:, 2], 1.0 - quantile)),
        quantile=quantile,
        prompts_fitted=len(values),
    )


class FrozenQuantile:
    """Fitted on generation 0 and kept, as the paper does; and offspring then pass easily (94 % in its Table 10)."""

    name = "quantile"

    def __init__(self, *, quantile: float) -> None:
        self._quantile = quantile

    def thresholds(self, values: NDArray[np.float64], previous: Thresholds | None) -> Thresholds:
        """The first fit, for ever."""
        return previous or fit_quantile(values, self._quantile, self.name)


class PerGeneration:
    """Fitted anew on each generation, so that selection never stops; an empty generation keeps the cuts before."""

    name = "per-generation"

    def __init__(self, *, quantile: float) -> None:
        self._quantile = quantile

    def thresholds(self, values: NDArray[np.float64], previous: Thresholds | None) -> Thresholds:
        """Quantiles of this generation."""
        if not len(values) and previous is not None:
            return previous
        return fit_quantile(values, self._quantile, self.name)


class Absolute:
    """Cuts given beforehand, such as those of an earlier run; None does not cut."""

    name = "absolute"

    def __init__(
        self, *, min_reward: float | None = None, min_length: float | None = None, max_gap: float | None = None
    ) -> None:
        self._given = Thresholds(self.name, min_reward, min_length, max_gap)

    def thresholds(self, values: NDArray[np.float64], previous: Thresholds | None) -> Thresholds:
        """The given cuts, whatever the values."""
        return self._given
