"""Turns the cuts that a user states, in one of several ways, into the rule of a filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fittest.evo.errors import FittestError
from fittest.evo.records import RIP_METRICS, MetricName, Range, Thresholds
from fittest.operators.policies import CutRule, levels_for
from fittest.runs.config.selection import percentile_range, ranges_of
from fittest.runs.filters.scoring import Scoring
from fittest.runs.output.thresholds import load_thresholds


class _Rule(NamedTuple):
    """Decides which prompts are kept.

    Attributes:
        cuts: a rule that fits the cuts to the prompts with metrics, or cuts that are known beforehand.
        metrics: the metrics that are cut.
        n: how many responses of each prompt the cuts of a file were fitted to; None for other cuts.
    """

    cuts: CutRule | Thresholds
    metrics: Sequence[MetricName]
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Says where RIP cuts: by a quantile, percentiles, a file of thresholds, or absolute cuts; by default at medians.

    Attributes:
        quantile: the share that each metric may cut, in [0, 1).
        metrics: the metrics that are cut; None takes m1, m2 and m3, or those of the file of thresholds.
        percentiles: the percentile range of each metric that survives, such as {"m1": (60, 100)}.
        thresholds: thresholds.json of an earlier run or filter.
        min_reward: the least reward of the rejected response (m1).
        min_length: the least length of the rejected response (m2).
        max_gap: the largest reward gap (m3).
        at_least: the least value of any metric; it holds beside the other cuts.
        at_most: the largest value of any metric; it holds beside the other cuts.
    """

    quantile: float | None = None
    metrics: Sequence[MetricName] | None = None
    percentiles: Mapping[MetricName, tuple[float, float]] = field(default_factory=dict)
    thresholds: Path | str | None = None
    min_reward: float | None = None
    min_length: float | None = None
    max_gap: float | None = None
    at_least: Mapping[MetricName, float] = field(default_factory=dict)
    at_most: Mapping[MetricName, float] = field(default_factory=dict)

    def rule(self, scoring: Scoring) -> _Rule:
        """Returns the rule that these cuts stand for.

        Args:
            scoring: what the cuts of a file must have been fitted to.

        Raises:
            FittestError: cuts contradict each other, or a file of thresholds cannot be used here.
        """
        absolute = ranges_of({"m1": self.min_reward, "m2": self.min_length}, {"m3": self.max_gap})
        self._check(absolute=bool(absolute))
        bounds = ranges_of(self.at_least, self.at_most)
        if self.thresholds is not None:
            fitted = load_thresholds(
                Path(self.thresholds),
                reward_id=scoring.full_reward_id,
                length_unit=scoring.length_unit,
                pairing=scoring.pairing,
            )
            metrics = list(fitted.cuts) if self.metrics is None else self.metrics
            return _Rule(Thresholds("absolute", fitted.cuts, bounds), metrics, fitted.n)
        if absolute:
            return _Rule(Thresholds("absolute", absolute, bounds), list(absolute))
        if self.percentiles:
            levels = {name: _range_kept(name, ends) for name, ends in self.percentiles.items()}
            return _Rule(CutRule(levels, bounds), list(levels))
        metrics = RIP_METRICS if self.metrics is None else self.metrics
        level = 0.5 if self.quantile is None else self.quantile
        return _Rule(CutRule(levels_for(metrics, level), bounds, level), metrics)

    def __bool__(self) -> bool:
        """Tells whether any cut was stated."""
        return self != Cuts()

    def _check(self, *, absolute: bool) -> None:
        cuts = (self.quantile, self.min_reward, self.min_length, self.max_gap)
        if not all(math.isfinite(cut) for cut in cuts if cut is not None):
            raise FittestError(
                "cuts and quantiles must be finite numbers; leave an option out where it should not cut"
            )
        ways = (self.quantile is not None) + bool(self.percentiles) + (self.thresholds is not None) + absolute
        if ways > 1:
            raise FittestError(
                "give one of --quantile, --percentiles, --thresholds, or absolute cuts"
                " (--min-reward, --min-length, --max-gap)"
            )
        if self.metrics is not None and (self.percentiles or absolute):
            raise FittestError(
                "--metrics goes with --quantile or --thresholds; the other cuts name their metrics themselves"
            )


@dataclass(frozen=True, kw_only=True)
class By:
    """Chooses a filter that RIP was compared with, and how much of it to keep.

    Attributes:
        name: the name of the filter.
        keep: the percentiles of its score that survive, such as (25, 100); None takes the filter's own range.
        size: how many prompts to keep at most; None: no bound, and for "random" as many as RIP keeps.
        model: the model that filters with a model ask.
    """

    name: str
    keep: tuple[float, float] | None = None
    size: int | None = None
    model: str = "smollm2-135m"

    @property
    def range(self) -> Range | None:
        """Returns the percentiles that survive as levels in [0, 1]."""
        return None if self.keep is None else _range_kept("--keep", self.keep)


def _range_kept(name: str, ends: tuple[float, float]) -> Range:
    """Returns a surviving percentile range as levels in [0, 1]; one that is no range is a user's mistake."""
    try:
        return percentile_range(name, *ends)
    except ValueError as error:
        raise FittestError(str(error)) from None
