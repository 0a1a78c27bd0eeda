"""The configuration of a run: all that run.toml may say, checked before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fittest.evo.arms import ArmName
from fittest.evo.spending import Prices
from fittest.runs.config.embedder import DiversitySection
from fittest.runs.config.engine import AnyEngine, LlamaCppSection
from fittest.runs.config.gates import GatesSection
from fittest.runs.config.operators import OperatorsSection
from fittest.runs.config.paths import FileName
from fittest.runs.config.reward import AnyReward, HeadSection, PairwiseSection, RunJudgeSection
from fittest.runs.config.section import Section, checked
from fittest.runs.config.selection import AnySelection, QuantileSection


class _RunSection(Section):
    """[run]."""

    seed: int = Field(default=7, ge=0)
    generations: int = Field(default=3, ge=0)
    population: int = Field(default=1000, ge=0)
    mode: Literal["generational", "steady-state"] = "generational"
    arm: ArmName = "evolution"


class _PoolSection(Section):
    """[pool]."""

    path: FileName
    prompt_column: str | None = None
    limit: int = Field(default=0, ge=0)


class _PricesSection(Section):
    """[prices]: what a million tokens and an hour of the engine cost, in one currency."""

    prompt_tokens: float = Field(default=0, ge=0)
    cached_tokens: float | None = Field(default=None, ge=0)
    completion_tokens: float = Field(default=0, ge=0)
    engine_hour: float = Field(default=0, ge=0)

    @property
    def table(self) -> Prices:
        """Returns the prices in the form of the ledger."""
        return Prices(**self.model_dump())


class _BudgetSection(Section):
    """[budget]; 0 means that there is no limit."""

    max_tokens: int = Field(default=0, ge=0)
    max_seconds: float = Field(default=0, ge=0)
    max_requests: int = Field(default=0, ge=0)
    max_cost: float = Field(default=0, ge=0)
    target_survivors: int = Field(default=0, ge=0)


class Config(Section):
    """The whole of run.toml."""

    run: _RunSection = _RunSection()
    pool: _PoolSection
    engine: AnyEngine = LlamaCppSection()
    reward: AnyReward = HeadSection()
    judge: RunJudgeSection = RunJudgeSection()
    selection: AnySelection = QuantileSection()
    operators: OperatorsSection = OperatorsSection()
    gates: GatesSection = GatesSection()
    diversity: DiversitySection = DiversitySection()
    prices: _PricesSection = _PricesSection()
    budget: _BudgetSection = _BudgetSection()

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> Self:
        if self.budget.max_cost and not self.prices.table.known:
            raise ValueError("budget.max_cost needs [prices]: prompt_tokens and completion_tokens, or engine_hour")
        return self

    @model_validator(mode="after")
    def _cuts_known_where_they_have_to_be(self) -> Self:
        selects = f'policy "{self.selection.policy}"' if self.run.arm != "best-of-n" else 'arm "best-of-n"'
        within_generation = self.run.arm == "best-of-n" or self.selection.WITHIN_GENERATION
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
        if self.judge != RunJudgeSection() and not self.reward.COMPARES:
            raise ValueError(f'[judge] is for reward kind "pairwise", not "{self.reward.kind}"')
        votes = self.reward.votes if isinstance(self.reward, PairwiseSection) else None
        if self.judge.model is not None and votes is not None:
            raise ValueError("reward.votes are of the engine; a judge.model tells its probability instead")
        if self.judge.retrain_every and self.run.mode == "steady-state":
            raise ValueError('judge.retrain_every needs generations: run.mode "generational"')
        return self

    def toml_tables(self) -> dict[str, Any]:
        """Returns the resolved configuration for run.toml; TOML has no null, so a key without a value is absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def lasting_tables(self) -> dict[str, Any]:
        """Returns what a run cannot change when it goes on: all but budget, prices, and where its servers are."""
        tables = self.toml_tables() | {"engine": self.engine.lasting(), "reward": self.reward.lasting()}
        del tables["budget"], tables["prices"]
        return tables


def parse_config(tables: Mapping[str, Any], *, name: str = "configuration", folder: Path | None = None) -> Config:
    """Returns the tables of a configuration, checked.

    Args:
        tables: the tables of run.toml.
        name: what to call them in messages.
        folder: the folder that relative paths start from; None leaves paths as they are.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    return checked(Config, tables, name=name, folder=folder)
