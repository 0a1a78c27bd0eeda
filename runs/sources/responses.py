"""Reads a table with one row per response and groups it by prompt, in file order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from fittest.evo.errors import FittestError
from fittest.evo.records import Missing
from fittest.fitness.evaluator import MAX_REWARD, normalised
from fittest.fitness.lengths import LengthUnit
from fittest.runs.reading.files import shown
from fittest.runs.reading.parquet import check_parquet
from fittest.runs.sources.pool_columns import shown_cell, without_lone_surrogates
from fittest.runs.sources.readers import expanded, format_of, open_table, refuse_twins
from fittest.runs.sources.table import Row, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray


_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names the columns of a response table; the reward is a weighted sum of `rewards`, missing if that is empty."""

    prompt: str = "prompt"
    response: str = "response"
    rewards: Mapping[str, float] = field(default_factory=lambda: {"reward": 1.0})

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Returns the column that names the judge of each reward; none for rewards that `reward_id` is not about."""
        return ("reward_id",) if self.rewards == Columns().rewards else ()

    @property
    def reward_id(self) -> str:
        """Returns the name of the reward in thresholds.json."""
        if list(self.rewards.values()) == [1.0]:
            return f"column:{next(iter(self.rewards))}"
        return "columns:" + "+".join(f"{weight!r}*{name}" for name, weight in sorted(self.rewards.items()))


MORE_COLUMNS: dict[str, type[pl.DataType]] = {
    "source": pl.String, "licence": pl.String, "reward_id": pl.String, "truncated": pl.Boolean,
}  # fmt: skip
"""What a response table may say of a row beside its texts and its reward; the names are those of our own tables."""


@dataclass(frozen=True)
class ResponseTable:
    """Holds responses grouped by prompt: prompts in the order of their first row, their responses in file order.

    Attributes:
        frame: one row per response, with the columns prompt, reward (NaN if missing), reason (why it is missing), and
            those of `MORE_COLUMNS` that the file has.
        texts: the responses in file order, since sorting a gigabyte of text costs more than everything else.
        rows: the position in `texts` of the response of each row of `frame`, shape (responses,).
        counts: the number of responses of each prompt, shape (prompts,).
        without_prompt: how many rows were left out because they have no prompt.
        births: what runs have recorded of prompts, in columns named as in survivors.parquet; None without runs.
        warnings: what a reader of the table should know.
        system: the system prompt of the runs that all responses come from; None if there is none, or not one.
    """

    frame: pl.DataFrame
    texts: pl.Series
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    without_prompt: int = 0
    births: pl.DataFrame | None = None
    warnings: tuple[str, ...] = ()
    system: str | None = None

    @property
    def starts(self) -> NDArray[np.int64]:
        """Returns the row of each prompt's first response, shape (prompts,)."""
        return np.cumsum(self.counts) - self.counts

    def first_prompts(self, limit: int | None) -> ResponseTable:
        """Returns the table of the first `limit` prompts; None keeps all."""
        if limit is None:
            return self
        counts = self.counts[:limit]
        rows = int(counts.sum())
        return replace(self, frame=self.frame.head(rows), rows=self.rows[:rows], counts=counts)

    @property
    def reward_ids(self) -> list[str]:
        """Returns the names of the rewards that the rows themselves name, in alphabetical order."""
        return self.frame["reward_id"].drop_nulls().unique().sort().to_list() if "reward_id" in self.frame else []

    def judged_by(self, reward_id: str | None) -> ResponseTable:
        """Returns the table with the reward of each row named; None keeps the names in the table."""
        return self if reward_id is None else replace(self, frame=self.frame.with_columns(reward_id=pl.lit(reward_id)))

    @property
    def responses(self) -> pl.Series:
        """Returns the response of each row; some may be null."""
        return self.texts.gather(self.rows)

    def by_prompt(self) -> dict[str, list[str | None]]:
        """Returns the responses of each prompt, in order."""
        texts, starts = self.responses, self.starts.tolist()
        prompts = self.frame["prompt"].gather(starts).to_list()
        return {
            prompt: texts.slice(start, count).to_list()
            for prompt, start, count in zip(prompts, starts, self.counts.tolist(), strict=True)
        }

    def rewards(self) -> dict[tuple[str, str], float | Missing]:
        """Returns the reward of each (prompt, response), or the reason why it is missing.

        Raises:
            FittestError: the same response to the same prompt has two rewards, but a reward is a function of both.
        """
        found: dict[tuple[str, str], float | Missing] = {}
        columns = self.frame.select("prompt", self.responses.alias("response"), "reward", "reason")
        for prompt, response, reward, reason in columns.drop_nulls("response").iter_rows():
            value = reward if reason is None else Missing(reason)
            known = found.setdefault((prompt, response), value)
            if known != value and not (isinstance(known, Missing) or isinstance(value, Missing)):
                raise FittestError(
                    f"the response {response[:40]!r} to {prompt[:40]!r} is recorded with two rewards, {known:g} and"
                    f" {value:g}; leave one of them out"
                )
            # of a missing and a known reward the known one counts
            if isinstance(known, Missing):
                found[prompt, response] = value
        return found

    @property
    def fingerprint(self) -> str:
        """Returns 16 hex digits that identify all prompts and responses."""
        digest = hashlib.sha256()
        for prompt, response in zip(self.frame["prompt"], self.responses, strict=True):
            digest.update(f"{len(prompt)}:{prompt}{response}\0".encode())
        return digest.hexdigest()[:16]

    def lengths(self, unit: LengthUnit) -> NDArray[np.int64]:
        """Returns the length of each response, shape (responses,); a null response counts 0.

        Args:
            unit: counts the length of one text.
        """
        # polars counts characters of a million responses at once; any other unit is a Python function
        if unit is len:
            lengths = self.texts.str.len_chars().fill_null(0).cast(pl.Int64).to_numpy()
        else:
            lengths = np.array([unit(text or "") for text in self.texts], dtype=np.int64)
        return lengths[self.rows]


def read_responses(path: Path, columns: Columns) -> ResponseTable:
    """Reads a response table from one file.

    Args:
        path: a Parquet, JSON lines or CSV file.
        columns: names the columns; without a reward column every reward is missing.

    Raises:
        FittestError: the file, a column or a row cannot be used; the message names it.
    """
    return group_by_prompt(response_rows(path, columns), where=str(path))


def response_rows(path: Path, columns: Columns) -> pl.DataFrame:
    """Returns the rows of a file as `ResponseTable.frame` has them, in file order, with the responses themselves.

    Args:
        path: a Parquet, JSON lines or CSV file.
        columns: names the columns; without a reward column every reward is missing.

    Raises:
        FittestError: the file, a column or a row cannot be used; the message names it.
    """
    table = open_table(str(path))
    _check_columns(path, table.columns, columns)
    return _parquet(path, table, columns) if format_of(path) == ".parquet" else _rows(path, table, columns)


def group_by_prompt(frame: pl.DataFrame, *, where: str) -> ResponseTable:
    """Returns rows as a table; those without a prompt are left out.

    Args:
        frame: the rows, with the columns of `ResponseTable.frame`, and response.
        where: what they were read from, for the message.

    Raises:
        FittestError: there are no rows.
    """
    rows = frame.height
    frame = frame.filter(pl.col("prompt").is_not_null())
    if frame.is_empty():
        raise FittestError(f"{where}: holds no responses")
    groups = frame.with_row_index("row").group_by("prompt", maintain_order=True).agg(pl.col("row"))
    order = groups["row"].explode().cast(pl.Int64)
    counts = groups["row"].list.len().cast(pl.Int64).to_numpy()
    texts = frame["response"]
    return ResponseTable(frame.drop("response")[order], texts, order.to_numpy(), counts, rows - frame.height)


def _check_columns(path: Path, found: tuple[str, ...], columns: Columns) -> None:
    if not found:
        raise FittestError(f"{path}: holds no responses")
    if columns.prompt == columns.response:
        raise FittestError(f"{path}: column {columns.prompt!r} cannot be both the prompt and the response")
    rewards = [("reward", name) for name in columns.rewards]
    if "prompt_id" in found and columns.prompt not in found and path.parent.name == "responses":
        raise FittestError(f"{path}: the prompts stand in another table of the run; give the run's folder instead")
    for option, name in [("prompt", columns.prompt), ("response", columns.response), *rewards]:
        if name not in found:
            raise FittestError(
                f"{path}: no column {name!r}, wanted as {option}; its columns are {', '.join(map(repr, found))}"
            )


def _parquet(path: Path, table: Table, columns: Columns) -> pl.DataFrame:
    """Reads the format of big tables the quick way: no row passes through Python objects."""
    path = expanded(str(path))
    names = {"prompt": columns.prompt, "response": columns.response}
    names |= {name: name for name in ("source", "licence") if name in table.columns}
    refuse_twins(shown(path), table.columns, {*names.values(), *columns.rewards})
    check_parquet(path, {*names.values(), *columns.rewards, *(name for name in MORE_COLUMNS if name in table.columns)})
    known = pl.read_parquet_schema(path)
    more = [name for name, kind in MORE_COLUMNS.items() if name not in names and known.get(name) == kind]
    more = [name for name in more if name != "reward_id" or columns.reward_names]
    wanted = {*names.values(), *columns.rewards, *more}
    frame = pl.read_parquet(path, glob=False, columns=sorted(wanted))
    for name in names.values():
        if frame.schema[name] not in (pl.String, pl.Categorical, pl.Null):
            raise FittestError(f"{path}: column {name!r} holds {frame.schema[name]}; it should be text")
    for name in columns.rewards:
        if not (frame.schema[name].is_numeric() or frame.schema[name] == pl.Null):
            raise FittestError(f"{path}: column {name!r} holds {frame.schema[name]}; it should be numbers")
    cells = frame.select([*(pl.col(column).cast(pl.String).alias(name) for name, column in names.items()), *more])
    return with_rewards(cells, weighted_sum(frame, columns.rewards))


def with_rewards(frame: pl.DataFrame, rewards: pl.Series) -> pl.DataFrame:
    """Returns rows with the reward of each, and the reason why one is missing.

    Args:
        frame: the rows; the column response says which of them are answered.
        rewards: what was recorded as the reward of each.
    """
    value = pl.col("value")
    reason = (
        pl.when(pl.col("response").is_null()).then(pl.lit("response is null"))
        .when(value.is_null()).then(pl.lit("reward is null"))
        .when(value.is_nan()).then(pl.lit("reward is NaN"))
        .when(value.abs() > MAX_REWARD).then(pl.lit("reward is infinite"))
    )  # fmt: skip
    return (
        frame.with_columns(value=rewards)
        .with_columns(reason=reason)
        .with_columns(reward=pl.when(pl.col("reason").is_null()).then(value).otherwise(math.nan))
        .drop("value")
    )  # fmt: skip


def weighted_sum(frame: pl.DataFrame, weights: Mapping[str, float]) -> pl.Series:
    """Returns the reward of each row; it is null if any of its columns is null."""
    total = pl.Series([None] * frame.height, dtype=pl.Float64)
    # no start from zero: without reward columns the sum must stay null
    for position, (name, weight) in enumerate(weights.items()):
        part = frame[name].cast(pl.Float64) * weight
        total = total + part if position else part
    return total


def _rows(path: Path, table: Table, columns: Columns) -> pl.DataFrame:
    more = ("source", "licence", *columns.reward_names)
    wanted = {columns.prompt, columns.response, *columns.rewards, *more}
    there = [name for name in more if name in table.columns]
    names = ["prompt", "response", "reward", "reason", *there]
    kinds = {name: pl.Float64 if name == "reward" else pl.String for name in names}
    cells = (_cells(row, f"{path}: {table.unit} {number}", columns, there) for number, row in table.rows(wanted))
    # a part at a time: as Python objects and as a frame, a large file would be in memory twice
    parts = [pl.DataFrame(schema=kinds)]
    while part := list(islice(cells, _ROWS_AT_ONCE)):
        parts.append(pl.DataFrame(part, schema=kinds, orient="row", strict=False))
    return pl.concat(parts)


def _cells(row: Row, where: str, columns: Columns, more: Sequence[str]) -> tuple[object, ...]:
    """Returns prompt, response, reward, the reason why it is missing, and further texts of a row."""
    reward = _reward({name: row.get(name) for name in columns.rewards}, columns.rewards, where)
    response = _text(row.get(columns.response), where, columns.response)
    if response is None:
        reward = Missing("response is null")
    return (
        _text(row.get(columns.prompt), where, columns.prompt),
        response,
        math.nan if isinstance(reward, Missing) else reward,
        reward.reason if isinstance(reward, Missing) else None,
        *(_text(row.get(name), where, name) for name in more),
    )


def _text(cell: object, where: str, column: str) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, str):
        return without_lone_surrogates(cell)
    raise FittestError(f"{where}: {column} is {shown_cell(cell)}; it should be text")


def _reward(cells: Mapping[str, object], weights: Mapping[str, float], where: str) -> float | Missing:
    parts = [_number(cell, where) for cell in cells.values()]
    if not parts or None in parts:
        return Missing("reward is null")
    return normalised(sum(weight * (part or 0.0) for part, weight in zip(parts, weights.values(), strict=True)))


def _number(cell: object, where: str) -> float | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, (int, float, str)) and not isinstance(cell, bool):
        with suppress(ValueError, OverflowError):
            return float(cell)
    raise FittestError(f"{where}: the reward is {shown_cell(cell)}; it should be a number")
