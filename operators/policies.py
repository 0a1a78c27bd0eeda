"""Threshold policies: where the cuts of each generation come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, SMALL_IS_GOOD, MetricName, Range, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

Levels = Mapping[MetricName, Range]
"""Ends of the surviving range of each metric, as levels in [0, 1] of its distribution."""


def levels_for(metrics: Sequence[MetricName], quantile: float) -> dict[MetricName, Range]:
    """Levels at which each metric alone cuts a share of `quantile`, from the side that is bad."""
    return {name: Range(high=1.0 - quantile) if name in SMALL_IS_GOOD else Range(low=quantile) for name in metrics}


@dataclass(frozen=True, slots=True)
class CutRule:
    """How cuts are made: levels are looked up in the prompts they are fitted to; bounds hold as they are."""

    levels: Levels = field(default_factory=dict)
    bounds: Mapping[MetricName, Range] = field(default_factory=dict)
    quantile: float | None = None

    def fit(self, values: NDArray[np.float64], policy: str) -> Thresholds:
        """Cuts from prompts.

        Args:
            values: metrics of fully sampled prompts, shape (prompts, len(METRICS)); with none, only bounds cut.
            policy: the name to record.
        """
        cuts = {name: looked_up(values[:, METRICS.index(name)], ends) for name, ends in self.levels.items()}
        fitted = len(values) if self.levels else 0
        return Thresholds(policy, cuts, self.bounds, quantile=self.quantile, prompts_fitted=fitted)


class FrozenQuantile:
    """Fitted on generation 0 and kept, as the paper does; and offspring then pass easily (94 % in its Table 10)."""

    name = "quantile"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._fitted: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """The first fit, for ever."""
        return self._fitted

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Quantiles of the pool, or of its pilot; nothing can be frozen while no prompt has metrics."""
        fitted = self._rule.fit(values, self.name)
        if len(values):
            self._fitted = fitted
        return fitted


class PerGeneration:
    """Fitted anew on each generation, so that selection never stops; an empty generation keeps the cuts before."""

    name = "per-generation"

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._previous: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        """Never."""
        return None

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Quantiles of this generation."""
        if len(values) or self._previous is None:
            self._previous = self._rule.fit(values, self.name)
        return self._previous


class Annealed:
    """Quantiles of the pool at a level that rises by generation, so that offspring do not pass ever more easily.

    Args:
        rules: the rule of each generation; the last one goes on.
    """

    name = "annealed"

    def __init__(self, rules: Sequence[CutRule]) -> None:
        self._rules = rules
        self._pool: NDArray[np.float64] | None = None

    def known(self, generation: int) -> Thresholds | None:
        """The level of this generation, looked up in the pool."""
        if self._pool is None:
            return None
        return self._rules[min(generation, len(self._rules) - 1)].fit(self._pool, self.name)

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Remember the pool, or its pilot, once a prompt has metrics."""
        if len(values):
            self._pool = values
        return self._rules[0].fit(values, self.name)


class Absolute:
    """Cuts given beforehand, such as those of an earlier run."""

    name = "absolute"

    def __init__(self, given: Thresholds) -> None:
        self._given = replace(given, policy=self.name)

    def known(self, generation: int) -> Thresholds | None:
        """The given cuts."""
        return self._given

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """The given cuts, whatever the values."""
        return self._given


class Pareto:
    """No cuts: survival goes by Pareto rank within the generation (`fittest.operators.rejection.outranked`).

    Args:
        quantile: the share of a generation that may go.
        bounds: hold all the same.
    """

    name = "pareto"

    def __init__(self, *, quantile: float, bounds: Mapping[MetricName, Range]) -> None:
        self._thresholds = Thresholds(self.name, {}, bounds, quantile=quantile)

    def known(self, generation: int) -> Thresholds | None:
        """Never: who survives depends on the rest of the generation."""
        return None

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """The bounds alone."""
        return self._thresholds


def annealed_rules(
    metrics: Sequence[MetricName],
    *,
    first: float,
    last: float,
    generations: int,
    bounds: Mapping[MetricName, Range],
) -> list[CutRule]:
    """Rules whose quantile goes in equal steps from `first` for the pool to `last` for the last generation."""
    steps = np.linspace(first, last, generations + 1).tolist()
    return [CutRule(levels_for(metrics, quantile), bounds, quantile) for quantile in steps]


def looked_up(values: NDArray[np.float64], levels: Range) -> Range:
    """The values at these levels of a distribution; of no values, nothing."""
    if not len(values):
        return Range()
    low, high = (None if level is None else float(np.quantile(values, level)) for level in levels)
    return Range(low, high)
