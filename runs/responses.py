"""A table with one row per response: read from a file, grouped by prompt, in file order."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from evo.errors import FittestError
from evo.records import Missing
from fitness.evaluator import normalised
from fitness.lengths import LENGTH_UNITS
from runs.pools.layouts import without_lone_surrogates
from runs.pools.readers import Table, open_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a response table are what."""

    prompt: str = "prompt"
    response: str = "response"
    reward: str | None = "reward"


@dataclass(frozen=True)
class ResponseTable:
    """Responses sorted by prompt, prompts in the order of their first row, responses of one prompt in file order.

    `frame` has the columns prompt, response, reward (NaN where missing), reason (why), and source and licence where
    the file has them; `counts` holds the number of responses of each prompt. `without_prompt` rows were left out.
    """

    frame: pl.DataFrame
    counts: NDArray[np.int64]
    without_prompt: int = 0

    @property
    def starts(self) -> NDArray[np.int64]:
        """Row of each prompt's first response."""
        return np.cumsum(self.counts) - self.counts

    def by_prompt(self) -> dict[str, list[str | None]]:
        """The responses of each prompt, in order."""
        texts, starts = self.frame["response"], self.starts.tolist()
        prompts = self.frame["prompt"].gather(starts).to_list()
        return {
            prompt: texts.slice(start, count).to_list()
            for prompt, start, count in zip(prompts, starts, self.counts.tolist(), strict=True)
        }

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all prompts and responses."""
        digest = hashlib.sha256()
        for prompt, response in self.frame.select("prompt", "response").iter_rows():
            digest.update(f"{len(prompt)}:{prompt}{response}\0".encode())
        return digest.hexdigest()[:16]

    def lengths(self, unit: str) -> NDArray[np.int64]:
        """Length of each response in a unit of `fitness.lengths`; a null response has none and counts 0."""
        texts = self.frame["response"]
        if unit == "chars":
            return texts.str.len_chars().fill_null(0).cast(pl.Int64).to_numpy()
        measure = LENGTH_UNITS[unit]
        return np.array([measure(text or "") for text in texts], dtype=np.int64)


def read_responses(path: Path, columns: Columns) -> ResponseTable:
    """Read a response table.

    Args:
        path: Parquet, JSON lines or CSV.
        columns: which column is what; without a reward column every reward is missing.

    Raises:
        FittestError: a file, column or row cannot be used; the message names it.
    """
    table = open_table(str(path))
    _check_columns(path, table.columns, columns)
    frame = _parquet(path, table, columns) if path.suffix == ".parquet" else _rows(path, table, columns)
    rows = frame.height
    frame = frame.filter(pl.col("prompt").is_not_null())
    if frame.is_empty():
        raise FittestError(f"{path}: holds no responses")
    groups = frame.with_row_index("row").group_by("prompt", maintain_order=True).agg(pl.col("row"))
    order = groups["row"].explode()
    counts = groups["row"].list.len().cast(pl.Int64).to_numpy()
    return ResponseTable(frame[order], counts, without_prompt=rows - frame.height)


def _check_columns(path: Path, found: tuple[str, ...], columns: Columns) -> None:
    if not found:
        raise FittestError(f"{path}: holds no responses")
    if columns.prompt == columns.response:
        raise FittestError(f"{path}: column {columns.prompt!r} cannot be both the prompt and the response")
    for option, name in (("prompt", columns.prompt), ("response", columns.response), ("reward", columns.reward)):
        if name is not None and name not in found:
            raise FittestError(
                f"{path}: no column {name!r}; its columns are {', '.join(map(repr, found))};"
                f" name the right one as {option} column"
            )


def _parquet(path: Path, table: Table, columns: Columns) -> pl.DataFrame:
    """The quick way for the format of big tables: nothing of it passes through Python objects."""
    names = {"prompt": columns.prompt, "response": columns.response}
    names |= {name: name for name in ("source", "licence") if name in table.columns}
    wanted = {*names.values(), *([columns.reward] if columns.reward else [])}
    frame = pl.read_parquet(path, glob=False, columns=sorted(wanted))
    for name in names.values():
        if frame.schema[name] not in (pl.String, pl.Categorical, pl.Null):
            raise FittestError(f"{path}: column {name!r} holds {frame.schema[name]}; it should be text")
    reward = frame[columns.reward] if columns.reward else pl.Series([None] * frame.height, dtype=pl.Float64)
    if not (reward.dtype.is_numeric() or reward.dtype == pl.Null):
        raise FittestError(f"{path}: column {columns.reward!r} holds {reward.dtype}; it should be numbers")
    value = pl.col("value")
    reason = (
        pl.when(pl.col("response").is_null()).then(pl.lit("response is null"))
        .when(value.is_null()).then(pl.lit("reward is null"))
        .when(value.is_nan()).then(pl.lit("reward is NaN"))
        .when(value.is_infinite()).then(pl.lit("reward is infinite"))
    )  # fmt: skip
    return (
        frame.select(pl.col(column).cast(pl.String).alias(name) for name, column in names.items())
        .with_columns(value=reward.cast(pl.Float64))
        .with_columns(reason=reason)
        .with_columns(reward=pl.when(pl.col("reason").is_null()).then(value).otherwise(math.nan))
        .drop("value")
    )  # fmt: skip


def _rows(path: Path, table: Table, columns: Columns) -> pl.DataFrame:
    wanted = {name for name in (columns.prompt, columns.response, columns.reward, "source", "licence") if name}
    rows: dict[str, list[object]] = {"prompt": [], "response": [], "reward": [], "reason": []}
    rows |= {name: [] for name in ("source", "licence") if name in table.columns}
    for number, row in table.rows(wanted):
        where = f"{path}: {table.unit} {number}"
        reward = _reward(row.get(columns.reward) if columns.reward else None, where)
        response = _text(row.get(columns.response), where, columns.response)
        if response is None:
            reward = Missing("response is null")
        rows["prompt"].append(_text(row.get(columns.prompt), where, columns.prompt))
        rows["response"].append(response)
        rows["reward"].append(math.nan if isinstance(reward, Missing) else reward)
        rows["reason"].append(reward.reason if isinstance(reward, Missing) else None)
        for name in ("source", "licence"):
            if name in rows:
                rows[name].append(_text(row.get(name), where, name))
    kinds = {name: pl.Float64 if name == "reward" else pl.String for name in rows}
    return pl.DataFrame(rows, schema=kinds, strict=False)


def _text(cell: object, where: str, column: str) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, str):
        return without_lone_surrogates(cell)
    raise FittestError(f"{where}: {column} is {cell!r}; it should be text")


def _reward(cell: object, where: str) -> float | Missing:
    if cell is None or cell == "":
        return Missing("reward is null")
    if isinstance(cell, (int, float, str)) and not isinstance(cell, bool):
        try:
            return normalised(float(cell))
        except ValueError:
            pass
    raise FittestError(f"{where}: the reward is {cell!r}; it should be a number")
