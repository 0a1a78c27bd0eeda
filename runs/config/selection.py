"""[selection] of a configuration: which prompts survive; one section for each threshold policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Range
from fittest.fitness.lengths import check_length_unit
from fittest.fitness.pairing import parse_pairing
from fittest.operators.policies import levels_for
from fittest.runs.config.kind_section import ChosenSection, SectionKinds
from fittest.runs.config.kinds import Kind
from fittest.runs.config.paths import FileName

_ONLY_SOME_POLICIES: dict[str, tuple[object, str]] = {
    **dict.fromkeys(
        ("min_reward", "min_length", "max_gap", "thresholds"),
        (None, 'min_reward, min_length, max_gap and thresholds need policy "absolute", not "{policy}"'),
    ),
    "final_quantile": (
        None,
        'final_quantile goes with policy "annealed": the level that the last generation reaches',
    ),
    "target_pass_rate": (None, 'target_pass_rate goes with policy "tightening", not "{policy}"'),
    "percentiles": ({}, 'percentiles need policy "quantile" or "per-generation", not "{policy}"'),
    "pilot": (0, 'pilot needs policy "quantile", "annealed" or "tightening", not "{policy}"'),
}
"""Keys that not every policy takes: the value that says nothing, and the message about any other value.

Every run.toml of an earlier fittest holds all of these keys that have such a value, whatever its policy.
"""


class SelectionSection(ChosenSection):
    """What the sections of all policies have in common; one that a plug-in brings derives from it.

    Attributes:
        WITHIN_GENERATION: whether the survivors of a generation are known only when all of it is sampled. Such a
            policy cannot be raced, and a steady-state run has no use for it.
        BY_RANK: whether survival goes by Pareto rank within a generation instead of by cuts.
        TAKES_MORE_GENERATIONS: whether a finished run may be given more of them: the cuts of a generation do not
            depend on how many there are.
    """

    KEY = "policy"
    WITHIN_GENERATION: ClassVar[bool] = False
    BY_RANK: ClassVar[bool] = False
    TAKES_MORE_GENERATIONS: ClassVar[bool] = False

    policy: str
    # the arm "best-of-n" goes by it under every policy
    quantile: float = Field(default=0.5, ge=0, lt=1)
    metrics: tuple[MetricName, ...] = Field(default=RIP_METRICS, min_length=1)
    offspring_metrics: tuple[MetricName, ...] | None = Field(default=None, min_length=1)
    pairing: str = "best-worst"
    length_unit: str = "chars"
    length_cap: int = Field(default=0, ge=0)
    race_round: int = Field(default=2, ge=0, le=10_000)
    race_confidence: float | None = Field(default=None, gt=0.5, lt=1)
    race_audit: float = Field(default=0.1, ge=0, le=1)
    confirm: int = Field(default=0, ge=0, le=100)
    retest: float = Field(default=0.1, ge=0, le=1)
    parents: Literal["uniform", "tournament", "lexicase"] = "uniform"
    at_least: dict[MetricName, float] = Field(default={})
    at_most: dict[MetricName, float] = Field(default={})

    @property
    def bounds(self) -> dict[MetricName, Range]:
        """Returns the ranges that hold beside every policy."""
        return ranges_of(self.at_least, self.at_most)

    @property
    def cutting_metrics(self) -> list[MetricName]:
        """Returns the metrics that cut in any generation."""
        return list(dict.fromkeys([*self.metrics, *(self.offspring_metrics or ())]))

    @property
    def levels(self) -> dict[MetricName, Range] | None:
        """Returns the surviving range of each metric as levels of its distribution; None if cuts are not levels."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _keys_of_this_policy(cls, given: Any) -> Any:
        """Says which policy a key needs; keys that say nothing are left out."""
        if not isinstance(given, Mapping):
            return given
        foreign = _ONLY_SOME_POLICIES.keys() & given.keys() - cls.model_fields.keys()
        for key in _ONLY_SOME_POLICIES:
            nothing, message = _ONLY_SOME_POLICIES[key]
            if key in foreign and given[key] != nothing:
                raise ValueError(message.format(policy=given.get(cls.KEY)))
        return {key: value for key, value in given.items() if key not in foreign}

    @field_validator("pairing")
    @classmethod
    def _known_pairing(cls, name: str) -> str:
        return _or_value_error(lambda: parse_pairing(name).name)

    @field_validator("length_unit")
    @classmethod
    def _known_unit(cls, name: str) -> str:
        return _or_value_error(lambda: check_length_unit(name))

    @model_validator(mode="after")
    def _confidence_needs_rounds(self) -> Self:
        if self.race_confidence is not None and not self.race_round:
            raise ValueError("race_confidence needs racing: race_round is 0")
        return self


class PilotSection(SelectionSection):
    """A policy that is fitted to the pool once, for which a part of the pool will do."""

    pilot: float = Field(default=0, ge=0, lt=1)


class _PercentilesSection(SelectionSection):
    """A policy whose cuts are quantiles, or percentile ranges of single metrics."""

    percentiles: dict[MetricName, tuple[float, float]] = Field(default={})

    @property
    def levels(self) -> dict[MetricName, Range]:
        """Returns the quantile, or the percentile range of a metric that has one."""
        levels = levels_for(self.cutting_metrics, self.quantile)
        return levels | {name: percentile_range(name, *ends) for name, ends in self.percentiles.items()}

    @field_validator("percentiles")
    @classmethod
    def _ranges(cls, ranges: dict[MetricName, tuple[float, float]]) -> dict[MetricName, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            percentile_range(name, low, high)
        return ranges

    @model_validator(mode="after")
    def _of_metrics_that_count(self) -> Self:
        if set(self.percentiles) - set(self.cutting_metrics):
            raise ValueError("percentiles names a metric that is not in metrics")
        return self


class QuantileSection(PilotSection, _PercentilesSection):
    """Quantiles of the pool, which are kept for all generations."""

    TAKES_MORE_GENERATIONS = True

    policy: Literal["quantile"] = "quantile"


class PerGenerationSection(_PercentilesSection):
    """Quantiles of each generation."""

    WITHIN_GENERATION = True
    TAKES_MORE_GENERATIONS = True

    policy: Literal["per-generation"] = "per-generation"


class AnnealedSection(PilotSection):
    """Quantiles of the pool, whose level goes from `quantile` to `final_quantile` in equal steps."""

    policy: Literal["annealed"] = "annealed"
    final_quantile: float = Field(ge=0, lt=1)

    @property
    def levels(self) -> dict[MetricName, Range]:
        """Returns the levels of the pool; those of later generations cut from the same sides."""
        return levels_for(self.cutting_metrics, self.quantile)

    @model_validator(mode="before")
    @classmethod
    def _last_level(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("final_quantile") is None:
            raise ValueError(_ONLY_SOME_POLICIES["final_quantile"][1])
        return given


class TighteningSection(PilotSection):
    """Quantiles of the pool, which tighten whenever more than `target_pass_rate` of the offspring pass."""

    TAKES_MORE_GENERATIONS = True

    policy: Literal["tightening"] = "tightening"
    target_pass_rate: float = Field(default=0.5, gt=0, lt=1)

    @property
    def levels(self) -> dict[MetricName, Range]:
        """Returns the levels of the pool; later cuts are on the same sides."""
        return levels_for(self.cutting_metrics, self.quantile)


class AbsoluteSection(SelectionSection):
    """Cuts that are given beforehand, one by one or in the thresholds.json of another run."""

    TAKES_MORE_GENERATIONS = True

    policy: Literal["absolute"] = "absolute"
    thresholds: FileName | None = None
    min_reward: float | None = None
    min_length: float | None = None
    max_gap: float | None = None

    @property
    def cuts(self) -> dict[MetricName, Range]:
        """Returns min_reward, min_length and max_gap as ranges."""
        return ranges_of({"m1": self.min_reward, "m2": self.min_length}, {"m3": self.max_gap})

    @model_validator(mode="after")
    def _cuts_somewhere(self) -> Self:
        if not (self.cuts or self.thresholds or self.at_least or self.at_most):
            raise ValueError('policy "absolute" needs min_reward, min_length or max_gap, or thresholds')
        return self


class ParetoSection(SelectionSection):
    """No cuts: the best Pareto ranks of each generation survive, a share of 1 − `quantile` of it."""

    WITHIN_GENERATION = True
    TAKES_MORE_GENERATIONS = True
    BY_RANK = True

    policy: Literal["pareto"] = "pareto"


POLICIES = SectionKinds(
    "fittest.policies",
    "policy",
    {
        "quantile": Kind("fittest.runs.parts.selection:frozen_quantile", QuantileSection),
        "per-generation": Kind("fittest.runs.parts.selection:per_generation", PerGenerationSection),
        "annealed": Kind("fittest.runs.parts.selection:annealed", AnnealedSection),
        "tightening": Kind("fittest.runs.parts.selection:tightening", TighteningSection),
        "absolute": Kind("fittest.runs.parts.selection:absolute", AbsoluteSection),
        "pareto": Kind("fittest.runs.parts.selection:pareto", ParetoSection),
    },
    base=SelectionSection,
    default="quantile",
)

AnySelection = Annotated[SerializeAsAny[SelectionSection], BeforeValidator(POLICIES.read)]
"""The section of the policy that a table names."""


def _or_value_error(check: Callable[[], str]) -> str:
    """Runs a check of another package, and says its error in the form by which pydantic names the key."""
    try:
        return check()
    except FittestError as error:
        raise ValueError(str(error)) from None


def ranges_of(
    lows: Mapping[MetricName, float | None], highs: Mapping[MetricName, float | None]
) -> dict[MetricName, Range]:
    """Returns ranges from their ends, of the metrics that have one."""
    both = {name: Range(lows.get(name), highs.get(name)) for name in METRICS}
    return {name: ends for name, ends in both.items() if ends != Range()}


def percentile_range(name: str, low: float, high: float) -> Range:
    """Returns a surviving percentile range such as 60–100 as levels in [0, 1]; 0 and 100 do not cut.

    Args:
        name: what is cut, for the message.
        low: the lower percentile.
        high: the upper percentile.

    Raises:
        ValueError: the ends are not in order, or not percentiles.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles of {name}: {low:g} to {high:g} is no range within 0 to 100")
    return Range(low / 100 if low > 0 else None, high / 100 if high < 100 else None)
