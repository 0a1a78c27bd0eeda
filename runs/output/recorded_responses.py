"""Reads the responses that a run has kept in responses/NNNN.parquet: those of its survivors, and their rewards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from fittest.evo.errors import FittestError
from fittest.runs.output.responses import RESPONSE_SCHEMA
from fittest.runs.output.sealed import refuse_changed
from fittest.runs.reading.parquet import check_parquet

if TYPE_CHECKING:
    from fittest.fitness.pairing import Pairing

RESPONSE_COLUMNS = tuple(name for name in RESPONSE_SCHEMA if name not in ("prompt_id", "sample"))
"""Every column beside those that name a response."""

_NEEDED = ("prompt_id", "sample", "response", "reward")


def recorded_responses(folder: Path, survivors: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """Returns the responses of the survivors, in the order of their table and then by sample.

    Args:
        folder: the folder of a run.
        survivors: its survivors.parquet, with their place in it as `index`.
        columns: the columns that are read, besides `sample`.

    Returns:
        One row for each response, with the `index` of its survivor; None if the folder has no responses.

    Raises:
        FittestError: a table cannot be read, or lacks columns that ours have.
    """
    # retest.parquet holds later draws, which decide nothing
    paths = sorted(path for path in (folder / "responses").glob("*.parquet") if path.stem.isdecimal())
    if not paths:
        return None
    wanted = survivors.select("prompt_id", "index").lazy()
    frames = [_scanned(path, columns).join(wanted, on="prompt_id", how="inner") for path in paths]
    try:
        return pl.concat(frames).sort("index", "sample").collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(folder / "responses", error) from error


def _scanned(path: Path, columns: tuple[str, ...]) -> pl.LazyFrame:
    """Returns the columns of one table with our types; a column that an earlier version did not write is null."""
    refuse_changed(path)
    there = check_parquet(path, None, ours="table of responses")
    frame = pl.scan_parquet(path, glob=False)
    if missing := [name for name in _NEEDED if name not in there]:
        raise FittestError(f"{path}: lacks the columns {', '.join(missing)}")
    names = list(dict.fromkeys(("prompt_id", "sample", *columns)))
    return frame.select(
        (pl.col(name) if name in there else pl.lit(None).alias(name)).cast(RESPONSE_SCHEMA[name]) for name in names
    )


def _unreadable(path: Path, error: Exception) -> FittestError:
    reason = str(error).partition("\n")[0]
    return FittestError(f"{path}: not a readable table of responses ({reason})")


def with_reward_moments(survivors: pl.DataFrame, responses: pl.DataFrame | None) -> pl.DataFrame:
    """Adds the mean and the standard deviation (of the population) of each survivor's rewards.

    Args:
        survivors: the survivors, with `index`.
        responses: their responses with `index` and `reward`; None adds columns of nulls.
    """
    if responses is None:
        nothing = pl.lit(None, dtype=pl.Float64)
        return survivors.with_columns(reward_mean=nothing, reward_std=nothing)
    moments = (
        responses.filter(pl.col("reward").is_finite())
        .group_by("index")
        .agg(reward_mean=pl.col("reward").mean(), reward_std=pl.col("reward").std(ddof=0))
    )
    return survivors.join(moments, on="index", how="left", maintain_order="left")


def paired_anew(survivors: pl.DataFrame, responses: pl.DataFrame, pairing: Pairing, seed: int) -> pl.DataFrame:
    """Chooses the pair of each survivor again from its responses, with the draws of a run of this seed.

    Args:
        survivors: the survivors, with `index`.
        responses: their responses with `index`, `response`, `reward`, `truncated` and `reward_id`, sorted by (index,
            sample).
        pairing: says which response is the rejected one.
        seed: the seed of the run.

    Returns:
        The survivors, with other answers, rewards and flags; a survivor with fewer than two scored responses has
        nulls there.

    Raises:
        FittestError: no survivor has a response on record.
    """
    changed = survivors.drop("chosen", "rejected", "chosen_reward", "rejected_reward", "reward_gap",
                             "chosen_truncated", "rejected_truncated", "reward_id")  # fmt: skip
    counted = responses.group_by("index", maintain_order=True).agg(
        count=pl.len(), scored=pl.col("reward").is_finite().sum()
    )
    if counted.is_empty():
        raise FittestError("responses/ holds no response of any survivor")
    names = survivors.get_column("prompt_id").gather(counted["index"])
    rewards = responses["reward"].fill_null(np.nan).to_numpy()
    counts = counted["count"].to_numpy().astype(np.int64)
    chosen, rejected = pairing.pairs(rewards, counts, pairing.draws(seed, names))
    answers = pl.concat(
        [
            counted.select("index", "scored"),
            _answers(responses, pl.Series(chosen), "chosen"),
            _answers(responses, pl.Series(rejected), "rejected"),
            responses.select("reward_id").select(pl.col("reward_id").gather(pl.Series(chosen))),
        ],
        how="horizontal",
    ).filter(pl.col("scored") >= 2)
    return changed.join(
        answers.with_columns(reward_gap=pl.col("chosen_reward") - pl.col("rejected_reward")).drop("scored"),
        on="index", how="left", maintain_order="left",
    )  # fmt: skip


def _answers(responses: pl.DataFrame, positions: pl.Series, name: str) -> pl.DataFrame:
    return responses.select(
        pl.col("response").gather(positions).alias(name),
        pl.col("reward").gather(positions).alias(f"{name}_reward"),
        pl.col("truncated").gather(positions).alias(f"{name}_truncated"),
    )
