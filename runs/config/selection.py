"""[selection] of a configuration: which prompts survive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range
from fittest.fitness.lengths import check_length_unit
from fittest.fitness.pairing import parse_pairing
from fittest.runs.config.paths import FileName
from fittest.runs.config.section import Section


class SelectionSection(Section):
    """[selection]."""

    policy: Literal["quantile", "per-generation", "annealed", "absolute", "pareto"] = "quantile"
    quantile: float = Field(default=0.5, ge=0, lt=1)
    final_quantile: float | None = Field(default=None, ge=0, lt=1)
    metrics: tuple[MetricName, ...] = Field(default=RIP_METRICS, min_length=1)
    offspring_metrics: tuple[MetricName, ...] | None = Field(default=None, min_length=1)
    percentiles: dict[MetricName, tuple[float, float]] = Field(default={})
    pairing: str = "best-worst"
    length_unit: str = "chars"
    pilot: float = Field(default=0, ge=0, lt=1)
    race_round: int = Field(default=2, ge=0)
    race_confidence: float | None = Field(default=None, gt=0.5, lt=1)
    race_audit: float = Field(default=0.1, ge=0, le=1)
    thresholds: FileName | None = None
    min_reward: float | None = None
    min_length: float | None = None
    max_gap: float | None = None
    at_least: dict[MetricName, float] = Field(default={})
    at_most: dict[MetricName, float] = Field(default={})

    @field_validator("pairing")
    @classmethod
    def _known_pairing(cls, name: str) -> str:
        return _or_value_error(lambda: parse_pairing(name).name)

    @field_validator("length_unit")
    @classmethod
    def _known_unit(cls, name: str) -> str:
        return _or_value_error(lambda: check_length_unit(name))

    @field_validator("percentiles")
    @classmethod
    def _ranges(cls, ranges: dict[MetricName, tuple[float, float]]) -> dict[MetricName, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            percentile_range(name, low, high)
        return ranges

    @model_validator(mode="after")
    def _keys_belong_to_the_policy(self) -> Self:
        cuts = (self.min_reward, self.min_length, self.max_gap)
        if self.policy == "absolute":
            if not (any(cut is not None for cut in cuts) or self.thresholds or self.at_least or self.at_most):
                raise ValueError('policy "absolute" needs min_reward, min_length or max_gap, or thresholds')
        elif cuts != (None, None, None) or self.thresholds:
            raise ValueError(
                f'min_reward, min_length, max_gap and thresholds need policy "absolute", not "{self.policy}"'
            )
        if (self.policy == "annealed") != (self.final_quantile is not None):
            raise ValueError('final_quantile goes with policy "annealed": the level that the last generation reaches')
        if self.percentiles and self.policy not in ("quantile", "per-generation"):
            raise ValueError(f'percentiles need policy "quantile" or "per-generation", not "{self.policy}"')
        if set(self.percentiles) - {*self.metrics, *(self.offspring_metrics or ())}:
            raise ValueError("percentiles names a metric that is not in metrics")
        if self.race_confidence is not None and not self.race_round:
            raise ValueError("race_confidence needs racing: race_round is 0")
        if self.pilot and self.policy not in ("quantile", "annealed"):
            raise ValueError(f'pilot needs policy "quantile" or "annealed", not "{self.policy}"')
        return self

    @property
    def bounds(self) -> dict[MetricName, Range]:
        """Ranges that hold beside every policy."""
        return ranges_of(self.at_least, self.at_most)

    @property
    def absolute_cuts(self) -> dict[MetricName, Range]:
        """min_reward, min_length and max_gap."""
        return ranges_of({"m1": self.min_reward, "m2": self.min_length}, {"m3": self.max_gap})


def _or_value_error(check: Callable[[], str]) -> str:
    """A check of another package in the terms of pydantic, which then names the key."""
    try:
        return check()
    except FittestError as error:
        raise ValueError(str(error)) from None


def ranges_of(
    lows: Mapping[MetricName, float | None], highs: Mapping[MetricName, float | None]
) -> dict[MetricName, Range]:
    """Ranges from their ends, of the metrics that have one."""
    both = {name: Range(lows.get(name), highs.get(name)) for name in METRICS}
    return {name: ends for name, ends in both.items() if ends != Range()}


def percentile_range(name: str, low: float, high: float) -> Range:
    """A surviving percentile range such as 60–100 as levels in [0, 1]; 0 and 100 do not cut.

    Raises:
        ValueError: the ends are not in order, or not percentiles.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles of {name}: {low:g} to {high:g} is no range within 0 to 100")
    return Range(low / 100 if low > 0 else None, high / 100 if high < 100 else None)
