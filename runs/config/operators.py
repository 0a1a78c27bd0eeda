"""[operators] of a configuration: how offspring are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fittest.evo.arms import ExemplarSource
from fittest.evo.shares import AdaptName
from fittest.runs.config.kinds import Kind, Kinds
from fittest.runs.config.plugged import PluggedSection
from fittest.runs.config.section import MOST_WEIGHT, Section


class _OperatorSampling(Section):
    """[operators.sampling]."""

    temperature: float = Field(default=0.8, ge=0, le=100)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=160, ge=1, le=10_000_000)


class OperatorsSection(PluggedSection):
    """[operators]; a plug-in is an operator of the mix, and [operators.NAME] holds its keys."""

    shots: int = Field(default=8, ge=1, le=1_000)
    exemplars: ExemplarSource = "survivors"
    offspring: int = Field(default=256, ge=1, le=10_000_000)
    mix: dict[str, float] = Field(default={"self_rip": 0.5, "mutate": 0.3, "cross": 0.2})
    adapt: AdaptName = "none"
    form: Literal["auto", "chat", "completion"] = "auto"
    sampling: _OperatorSampling = _OperatorSampling()

    @classmethod
    def kinds(cls) -> Kinds:
        """Returns the operators."""
        return OPERATORS

    @classmethod
    def named(cls, given: Mapping[str, Any]) -> Iterable[str]:
        """Returns the operators of the mix."""
        mix = given.get("mix")
        return mix if isinstance(mix, Mapping) else ()

    @model_validator(mode="after")
    def _positive_weights(self) -> Self:
        weights = self.mix.values()
        if not all(0 <= weight <= MOST_WEIGHT for weight in weights) or sum(weights) <= 0:
            raise ValueError(
                "mix needs weights that are not negative, at least one of them positive,"
                f" and none above {MOST_WEIGHT:g}"
            )
        return self


_STEPS = frozenset(
    {"clone", "map", "register", "unregister", "decorate", "evaluate", "mate", "select", "stock", "reject", "parse"}
    | {"diversity", "vendi", "breadth", "fresh_draw", "answers"}
)
"""What a toolbox has under these names; an operator is registered there under its own."""


class _Operators(Kinds):
    """Kinds of operators; one without keys may be the function itself."""

    def _kind(self, loaded: object) -> Kind:
        if callable(loaded) and not isinstance(loaded, Kind):
            return Kind(lambda: loaded)
        return super()._kind(loaded)


OPERATORS = _Operators(
    "fittest.operators",
    "operator",
    {
        "self_rip": Kind("fittest.operators.few_shot:SelfRip"),
        "mutate": Kind("fittest.operators.few_shot:Mutate"),
        "cross": Kind("fittest.operators.few_shot:Cross"),
        "blend": Kind("fittest.operators.few_shot:Blend"),
        "reason": Kind("fittest.operators.few_shot:Reason"),
        "repair": Kind("fittest.operators.repair:Repair"),
    },
    reserved=frozenset(OperatorsSection.model_fields) | _STEPS,
)
