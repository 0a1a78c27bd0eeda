"""The configuration of a run: all that run.toml may say, checked before anything is spent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fittest.evo.arms import ArmName
from fittest.evo.records import Role
from fittest.evo.spending import PriceList, Prices
from fittest.runs.config.archive import ArchiveSection
from fittest.runs.config.embedder import DiversitySection
from fittest.runs.config.engine import (
    AnyEngine,
    AnyOtherEngine,
    EngineSection,
    LlamaCppSection,
    is_recorded_table,
)
from fittest.runs.config.gates import GatesSection
from fittest.runs.config.operators import OperatorsSection
from fittest.runs.config.paths import FileName
from fittest.runs.config.reward import AnyReward, HeadSection, PairwiseSection, RewardSection, RunJudgeSection
from fittest.runs.config.section import Section, checked
from fittest.runs.config.selection import AnySelection, QuantileSection


class _RunSection(Section):
    """[run]."""

    seed: int = Field(default=7, ge=0)
    generations: int = Field(default=3, ge=0, le=1_000_000)
    population: int = Field(default=1000, ge=0)
    mode: Literal["generational", "steady-state"] = "generational"
    arm: ArmName = "evolution"


class _PoolSection(Section):
    """[pool]."""

    path: FileName
    prompt_column: str | None = None
    limit: int = Field(default=0, ge=0)


class _EnginePrices(Section):
    """What a million tokens and an hour of one engine cost."""

    prompt_tokens: float = Field(default=0, ge=0, le=1e9)
    cached_tokens: float | None = Field(default=None, ge=0, le=1e9)
    completion_tokens: float = Field(default=0, ge=0, le=1e9)
    engine_hour: float = Field(default=0, ge=0, le=1e9)

    @property
    def _prices(self) -> Prices:
        return Prices(self.prompt_tokens, self.cached_tokens, self.completion_tokens, self.engine_hour)


class _PricesSection(_EnginePrices):
    """[prices], in one currency; [prices.proposer], [prices.judge] and [prices.auditor] are for other engines."""

    proposer: _EnginePrices | None = None
    judge: _EnginePrices | None = None
    auditor: _EnginePrices | None = None

    def of_engines(self, roles: Collection[Role]) -> PriceList:
        """Returns the prices in the form of the ledger.

        Args:
            roles: those that have an engine of their own; without prices of its own, it costs what the others cost.
        """
        own = {"proposer": self.proposer, "judge": self.judge, "auditor": self.auditor}
        return PriceList(self._prices, **{role: (own[role] or self)._prices for role in own if role in roles})


class _BudgetSection(Section):
    """[budget]; 0 means that there is no limit."""

    max_tokens: int = Field(default=0, ge=0)
    max_seconds: float = Field(default=0, ge=0, le=1e9)
    max_requests: int = Field(default=0, ge=0)
    max_cost: float = Field(default=0, ge=0)
    target_survivors: int = Field(default=0, ge=0)


class Config(Section):
    """The whole of run.toml."""

    run: _RunSection = _RunSection()
    pool: _PoolSection
    engine: AnyEngine = LlamaCppSection()
    proposer: AnyOtherEngine | None = None
    reward: AnyReward = HeadSection()
    audit: AnyReward | None = None
    judge: RunJudgeSection = RunJudgeSection()
    selection: AnySelection = QuantileSection()
    operators: OperatorsSection = OperatorsSection()
    gates: GatesSection = GatesSection()
    diversity: DiversitySection = DiversitySection()
    archive: ArchiveSection = ArchiveSection()
    prices: _PricesSection = _PricesSection()
    budget: _BudgetSection = _BudgetSection()

    @model_validator(mode="before")
    @classmethod
    def _recorded_once(cls, given: Any) -> Any:
        """Asks for no fresh draws of a table, unless it is told to: it mostly holds one draw of each prompt."""
        engine = given.get("engine") if isinstance(given, Mapping) else None
        if not is_recorded_table(engine):
            return given
        selection = given.get("selection", {})
        if not isinstance(selection, Mapping):
            return given
        return {**given, "selection": {"confirm": 0, "retest": 0.0, **selection}}

    @property
    def engines(self) -> dict[Role, EngineSection]:
        """Returns the section of each engine by the role that it was configured for; the policy's comes first."""
        found: dict[Role, EngineSection] = {"policy": self.engine}
        if self.proposer is not None:
            found["proposer"] = self.proposer.in_table("proposer")
        if self.reward.judge_engine is not None:
            found["judge"] = self.reward.judge_engine.in_table("reward.engine")
        if self.audit is not None and self.audit.judge_engine is not None:
            found["auditor"] = self.audit.judge_engine.in_table("audit.engine")
        return found

    @property
    def rewards(self) -> dict[str, RewardSection]:
        """Returns the section of each reward by its table; the one that decides comes first."""
        return {"reward": self.reward, **({} if self.audit is None else {"audit": self.audit})}

    def engine_of(self, role: Role) -> EngineSection:
        """Returns the section of the engine that serves a role."""
        return self.engines.get(role, self.engine)

    @property
    def price_list(self) -> PriceList:
        """Returns the prices of each engine."""
        return self.prices.of_engines(self.engines)

    @model_validator(mode="after")
    def _prices_of_engines_that_are_there(self) -> Self:
        tables = {"proposer": "[proposer]", "judge": "[reward.engine]", "auditor": "[audit.engine]"}
        for role, table in tables.items():
            if getattr(self.prices, role) is not None and role not in self.engines:
                raise ValueError(f"prices.{role} are of an engine of its own: there is no {table}")
        return self

    @model_validator(mode="after")
    def _system_prompt_has_a_place(self) -> Self:
        if self.proposer is not None and self.proposer.system and self.operators.form == "completion":
            raise ValueError('proposer.system stands before a chat; take operators.form "auto" or "chat"')
        return self

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> Self:
        if self.budget.max_cost and not self.price_list.known:
            raise ValueError("budget.max_cost needs [prices]: prompt_tokens and completion_tokens, or engine_hour")
        return self

    @model_validator(mode="after")
    def _cuts_known_where_they_have_to_be(self) -> Self:
        selects = f'policy "{self.selection.policy}"' if self.run.arm != "best-of-n" else 'arm "best-of-n"'
        within_generation = self.run.arm == "best-of-n" or self.selection.WITHIN_GENERATION
        if self.run.mode == "steady-state" and within_generation:
            raise ValueError(
                f'run.mode "steady-state" has no finished generation to compare within, as {selects} does; take policy'
                ' "quantile", "annealed", "tightening" or "absolute"'
            )
        if self.judge.retrain_every and within_generation:
            raise ValueError(
                f"judge.retrain_every needs cuts that can be fitted to the pool again; {selects} has none; take policy"
                ' "quantile", "annealed", "tightening" or "absolute"'
            )
        return self

    @model_validator(mode="after")
    def _cells_are_bred_from(self) -> Self:
        if self.archive.breeds and self.run.arm != "evolution":
            raise ValueError(
                f'archive.kind "{self.archive.kind}" chooses what is bred from, and so does run.arm "{self.run.arm}";'
                ' take archive.kind "none" or run.arm "evolution"'
            )
        return self

    @model_validator(mode="after")
    def _judge_is_asked(self) -> Self:
        compares = any(section.COMPARES for section in self.rewards.values())
        if self.judge != RunJudgeSection() and not (
            compares if not self.judge.retrain_every else self.reward.COMPARES
        ):
            raise ValueError(f'[judge] is for reward kind "pairwise", not "{self.reward.kind}"')
        for table, section in self.rewards.items():
            if self.judge.model is None or not isinstance(section, PairwiseSection):
                continue
            if section.judge_engine is not None:
                raise ValueError(f"{table}.engine gives votes; with a judge.model, nobody is asked for any")
            if section.votes is not None:
                raise ValueError(f"{table}.votes are of the engine; a judge.model tells its probability instead")
        if self.judge.retrain_every and self.run.mode == "steady-state":
            raise ValueError('judge.retrain_every needs generations: run.mode "generational"')
        return self

    def toml_tables(self) -> dict[str, Any]:
        """Returns the resolved configuration for run.toml; TOML has no null, so a key without a value is absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def lasting_tables(self) -> dict[str, Any]:
        """Returns what a run cannot change when it goes on: all but budget, prices, and where its servers are."""
        tables = self.toml_tables() | {"engine": self.engine.lasting(), "reward": self.reward.lasting()}
        if self.audit is not None:
            tables["audit"] = self.audit.lasting()
        if self.proposer is not None:
            tables["proposer"] = self.proposer.lasting_elsewhere()
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
