"""The configuration of a run: what may stand in run.toml, checked before anything is spent."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fittest.evo.arms import ArmName
from fittest.evo.spending import Prices
from fittest.runs.config.engine import EngineSection
from fittest.runs.config.reward import SERVED, RewardSection, RunJudgeSection
from fittest.runs.config.section import Section, checked
from fittest.runs.config.selection import SelectionSection


class RunSection(Section):
    """[run]."""

    seed: int = Field(default=7, ge=0)
    generations: int = Field(default=3, ge=0)
    population: int = Field(default=1000, ge=0)
    mode: Literal["generational", "steady-state"] = "generational"
    arm: ArmName = "evolution"


class PoolSection(Section):
    """[pool]."""

    path: str
    prompt_column: str | None = None
    limit: int = Field(default=0, ge=0)


class OperatorSampling(Section):
    """[operators.sampling]."""

    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=160, ge=1)


class OperatorsSection(Section):
    """[operators]."""

    shots: int = Field(default=8, ge=1)
    offspring: int = Field(default=256, ge=1)
    mix: dict[str, float] = Field(default={"self_rip": 0.5, "mutate": 0.3, "cross": 0.2})
    sampling: OperatorSampling = OperatorSampling()

    @model_validator(mode="after")
    def _positive_weights(self) -> Self:
        if not all(0 <= weight < math.inf for weight in self.mix.values()) or sum(self.mix.values()) <= 0:
            raise ValueError("mix needs weights that are not negative, at least one of them positive")
        return self


class GatesSection(Section):
    """[gates]."""

    min_chars: int = Field(default=10, ge=0)
    max_chars: int = Field(default=4000, ge=1)
    languages: tuple[str, ...] = ("en",)
    keywords: tuple[str, ...] = ("image", "picture", "graph")
    rouge_l: float = Field(default=0.7, gt=0, le=1)
    novelty: float = Field(default=0.05, ge=0, le=2)
    contamination: tuple[str, ...] = ()

    @field_validator("keywords")
    @classmethod
    def _words(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if not all(any(letter.isalnum() for letter in keyword) for keyword in keywords):
            raise ValueError("a keyword needs a letter or digit; an empty list turns the gate off")
        return keywords

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars = {self.min_chars} is more than max_chars = {self.max_chars}")
        return self


class DiversitySection(Section):
    """[diversity]."""

    embedder: str = "minilm"
    neighbours: int = Field(default=10, ge=1)
    device: str = "auto"


class PricesSection(Section):
    """[prices]; in one currency, for a million tokens and for an hour of the engine."""

    prompt_tokens: float = Field(default=0, ge=0)
    cached_tokens: float | None = Field(default=None, ge=0)
    completion_tokens: float = Field(default=0, ge=0)
    engine_hour: float = Field(default=0, ge=0)

    @property
    def table(self) -> Prices:
        """The prices as the engine's books take them."""
        return Prices(**self.model_dump())


class BudgetSection(Section):
    """[budget]; 0 is no limit."""

    max_tokens: int = Field(default=0, ge=0)
    max_seconds: float = Field(default=0, ge=0)
    max_requests: int = Field(default=0, ge=0)
    max_cost: float = Field(default=0, ge=0)
    target_survivors: int = Field(default=0, ge=0)


class Config(Section):
    """All of run.toml."""

    run: RunSection = RunSection()
    pool: PoolSection
    engine: EngineSection = EngineSection()
    reward: RewardSection = RewardSection()
    judge: RunJudgeSection = RunJudgeSection()
    selection: SelectionSection = SelectionSection()
    operators: OperatorsSection = OperatorsSection()
    gates: GatesSection = GatesSection()
    diversity: DiversitySection = DiversitySection()
    prices: PricesSection = PricesSection()
    budget: BudgetSection = BudgetSection()

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> Self:
        if self.budget.max_cost and not self.prices.table.known:
            raise ValueError("budget.max_cost needs [prices]: prompt_tokens and completion_tokens, or engine_hour")
        return self

    @model_validator(mode="after")
    def _cuts_known_where_they_have_to_be(self) -> Self:
        selects = f'policy "{self.selection.policy}"' if self.run.arm != "best-of-n" else 'arm "best-of-n"'
        within_generation = self.run.arm == "best-of-n" or self.selection.policy in ("per-generation", "pareto")
        if self.run.mode == "steady-state" and within_generation:
            raise ValueError(
                f'run.mode "steady-state" has no finished generation to compare within, as {selects} does; take policy'
                ' "quantile", "annealed" or "absolute"'
            )
        if self.judge.retrain_every and within_generation:
            raise ValueError(
                f"judge.retrain_every needs cuts that can be fitted to the pool again; {selects} has none; take policy"
                ' "quantile", "annealed" or "absolute"'
            )
        return self

    @model_validator(mode="after")
    def _judge_is_asked(self) -> Self:
        if self.judge != RunJudgeSection() and self.reward.kind != "pairwise":
            raise ValueError(f'[judge] is for reward kind "pairwise", not "{self.reward.kind}"')
        if self.judge.model is not None and self.reward.votes is not None:
            raise ValueError("reward.votes are of the engine; a judge.model tells its probability instead")
        if self.judge.retrain_every and self.run.mode == "steady-state":
            raise ValueError('judge.retrain_every needs generations: run.mode "generational"')
        return self

    def toml_tables(self) -> dict[str, Any]:
        """The resolved configuration as it is written to run.toml; TOML has no null, so what is not set is absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def lasting_tables(self) -> dict[str, Any]:
        """What a run cannot change when it goes on: all but budget, prices, and where its servers are to be found."""
        tables = self.toml_tables()
        del tables["budget"], tables["prices"]
        for key in ("base_url", "api_key_env", "timeout", "tensor_parallel_size", "gpu_memory_utilization"):
            tables["engine"].pop(key, None)
        for key in SERVED:
            tables["reward"].pop(key, None)
        return tables


def parse_config(tables: dict[str, Any], *, name: str = "configuration") -> Config:
    """Check the tables of a configuration.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    return checked(Config, tables, name=name)
