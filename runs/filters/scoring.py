"""Computes the metrics of every prompt in a response table; every filter works on the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from fittest.evo.prompt import prompt_id
from fittest.fitness.lengths import length_unit, residual_rewards
from fittest.fitness.metrics import RipMetrics, rip_metrics
from fittest.fitness.pairing import BEST_WORST, parse_pairing
from fittest.runs.models import find_model
from fittest.runs.sources.responses import MORE_COLUMNS, Columns, ResponseTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Says how responses become metrics.

    Attributes:
        reward_id: the name of the reward; cuts are only used again with a reward of the same name. None takes the
            names in the table, or else the name of the column, or of the columns.
        length_unit: the unit of m2: chars, words or tokens:MODEL.
        pairing: best-worst, best-random or best-bottom:FRACTION.
        seed: the seed of the rejected responses, for a pairing that draws them.
        length_residual: whether to subtract from each reward what a linear regression on length explains.
    """

    reward_id: str | None = None
    length_unit: str = "chars"
    pairing: str = BEST_WORST.name
    seed: int = 0
    length_residual: bool = False

    @property
    def full_reward_id(self) -> str:
        """Returns the reward's name, and whether it is a length residual."""
        return f"{self.reward_id or Columns().reward_id}{self.suffix}"

    @property
    def suffix(self) -> str:
        """Returns what is added to the name of a reward of which only the residual is used."""
        return "|length-residual" if self.length_residual else ""

    def named(self, table: ResponseTable, columns: Columns) -> Scoring:
        """Returns the same with a name for the reward, which several rewards in one table share.

        Args:
            table: the responses, which may name the reward of each.
            columns: where the rewards come from.
        """
        return replace(self, reward_id=self.reward_id or "+".join(table.reward_ids) or columns.reward_id)


@dataclass(frozen=True)
class ScoredTable:
    """Holds responses, and the metrics of each prompt in the order of the table.

    `rewards` and `lengths` are those that the metrics were computed from, of each row of `table.frame`; a missing
    reward is NaN. `draws` are the numbers that decided which responses are rejected; None for best-worst pairs.
    """

    table: ResponseTable
    scoring: Scoring
    rip: RipMetrics
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    draws: NDArray[np.float64] | None

    @property
    def has_metrics(self) -> NDArray[np.bool_]:
        """Tells for each prompt whether it has the two rewards that metrics need, shape (prompts,)."""
        return self.rip.n >= 2

    @cached_property
    def prompts(self) -> pl.Series:
        """Returns the text of each prompt."""
        return self.table.frame["prompt"].gather(self.table.starts)

    @cached_property
    def prompt_ids(self) -> list[str]:
        """Returns the identity of each prompt."""
        return [prompt_id(text) for text in self.prompts]

    @cached_property
    def chosen(self) -> list[str | None]:
        """Returns the chosen response of each prompt; None for a prompt without metrics."""
        return self._responses(self.rip.chosen)

    @cached_property
    def rejected(self) -> list[str | None]:
        """Returns the rejected response of each prompt; None for a prompt without metrics."""
        return self._responses(self.rip.rejected)

    def at(self, positions: NDArray[np.int64], column: str) -> pl.Series:
        """Returns a column of the table at one row of each prompt; null for −1, and without such a column.

        Args:
            positions: rows of `table.frame`, shape (prompts,).
            column: one of the columns that a table may have.
        """
        frame = self.table.frame
        if column not in frame.columns:
            return pl.Series([None] * len(positions), dtype=MORE_COLUMNS[column])
        # position −1 means no metrics; it picks the last row, which is then blanked
        there = pl.Series(positions >= 0)
        return pl.select(pl.when(there).then(frame[column].gather(positions % frame.height))).to_series()

    def _responses(self, positions: NDArray[np.int64]) -> list[str | None]:
        # position −1 means no metrics; it picks the last row, which `there` then blanks
        texts = self.table.texts.gather(self.table.rows[positions])
        there = pl.Series(positions >= 0)
        return pl.select(pl.when(there).then(texts)).to_series().to_list()


def score_table(table: ResponseTable, scoring: Scoring) -> ScoredTable:
    """Computes the metrics of every prompt.

    Args:
        table: the responses with their rewards.
        scoring: how they become metrics.

    Raises:
        FittestError: the length unit, its tokenizer or the pairing does not exist.
    """
    rewards = table.frame["reward"].to_numpy()
    lengths = table.lengths(length_unit(scoring.length_unit, find_model))
    if scoring.length_residual:
        rewards = residual_rewards(rewards, lengths)
    pairing = parse_pairing(scoring.pairing)
    # only the other pairings draw, and only they need the prompts as Python objects
    texts: Sequence[str] = () if pairing == BEST_WORST else table.frame["prompt"].gather(table.starts).to_list()
    draws = pairing.draws(scoring.seed, (prompt_id(text) for text in texts))
    metrics = rip_metrics(rewards, lengths, table.counts, pairing=pairing, draws=draws)
    return ScoredTable(table, scoring, metrics, rewards, lengths, draws)
