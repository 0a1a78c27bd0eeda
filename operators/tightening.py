"""Provides the policy whose cuts tighten as the population improves (docs/design/thresholds.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fittest.evo.records import METRICS, MetricName, Range, Thresholds
from fittest.operators.policies import CutRule, levels_for, looked_up
from fittest.operators.rejection import failures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEWEST_TO_FIT = 8
"""Quantiles of fewer survivors are mostly chance."""


class Tightening:
    """Fits cuts to the pool, and tightens them when more offspring pass than wanted, so that selection never weakens.

    The cuts of a generation depend on generations that were sealed before it, so they are known beforehand. What is
    fitted are the survivors alone, which are all sampled fully whether prompts are raced or not.

    Args:
        rule: how the first cuts are made.
        metrics: those that count for offspring, which are tightened.
        target_pass_rate: the share of a generation that should pass; while no more do, the cuts stay as they are.
    """

    name = "tightening"

    def __init__(self, rule: CutRule, *, metrics: Sequence[MetricName], target_pass_rate: float) -> None:
        self._rule = rule
        self._metrics = metrics
        self._target = target_pass_rate
        self._tightest: Thresholds | None = None
        self._settled: dict[int, Thresholds] = {}

    def known(self, generation: int) -> Thresholds | None:
        """Returns the tightest cuts so far; whoever asks first settles the cuts of a generation for good."""
        return None if self._tightest is None else self._settled.setdefault(generation, self._tightest)

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Fits cuts to the pool, or to its pilot; tightening begins anew when another judge has judged the pool."""
        fitted = self._rule.fit(values, self.name)
        if len(values):
            self._tightest, self._settled = fitted, {generation: fitted}
        return fitted

    def learn(self, survivors: NDArray[np.float64], evaluated: int) -> None:
        """Raises the cuts to the level that, had it held in this generation, the wanted share would have passed."""
        wanted = self._target * evaluated
        if self._tightest is None or len(survivors) < _FEWEST_TO_FIT or len(survivors) <= wanted:
            return
        found = self._strictest(survivors, wanted / len(survivors))
        # with few prompts a quantile may fall below what an earlier generation had to reach
        cuts = {name: ends.within(found.get(name, Range())) for name, ends in self._tightest.cuts.items()}
        self._tightest = replace(self._tightest, cuts=cuts, prompts_fitted=len(survivors))

    def _strictest(self, survivors: NDArray[np.float64], share: float) -> dict[MetricName, Range]:
        """Returns the quantiles, at one level for all metrics, that at least this share passes by all of them."""

        def cuts_at(level: float) -> dict[MetricName, Range]:
            levels = levels_for(self._metrics, level)
            return {name: looked_up(survivors[:, METRICS.index(name)], ends) for name, ends in levels.items()}

        low, high = 0.0, 1.0
        # the share falls with the level in steps, of which there are no more than survivors
        for _ in range(len(survivors).bit_length() + 1):
            middle = (low + high) / 2
            failed = failures(survivors, Thresholds(self.name, cuts_at(middle)), self._metrics).any(axis=1)
            low, high = (middle, high) if 1.0 - failed.mean() >= share else (low, middle)
        return cuts_at(low)
