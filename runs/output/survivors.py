"""Reads the survivors in the folder of a run or a filter, and traces where each of them came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import polars as pl

from fittest.evo.errors import FittestError
from fittest.runs.output.sealed import refuse_changed
from fittest.runs.output.together import settle
from fittest.runs.reading.parquet import read_table

SURVIVOR_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String, "prompt": pl.String, "generation": pl.Int64, "slot": pl.Int64, "operator": pl.String,
    "parents": pl.List(pl.String), "exemplars": pl.List(pl.String), "source": pl.String, "licence": pl.String,
    "chosen": pl.String, "rejected": pl.String, "chosen_reward": pl.Float64, "rejected_reward": pl.Float64,
    "rejected_length": pl.Int64, "reward_gap": pl.Float64, "diversity": pl.Float64, "n": pl.Int64,
    "in_population": pl.Boolean, "chosen_truncated": pl.Boolean, "rejected_truncated": pl.Boolean,
    "reward_id": pl.String, "draws": pl.Int64, "draws_passed": pl.Int64,
}  # fmt: skip
"""The columns of survivors.parquet, both of a run and of a filter."""

_NEEDED_COLUMNS = (
    "prompt_id", "prompt", "generation", "operator", "parents", "exemplars", "source", "licence", "chosen", "rejected",
    "chosen_reward", "rejected_reward",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Lineage:
    """Says how far survivors are from the pool.

    Attributes:
        depths: the number of births on the longest path from the pool to each survivor; 0 for a prompt of the pool.
        pool_ancestors: how many prompts of the pool each survivor descends from, through parents and exemplars; a
            prompt of the pool counts itself.
    """

    depths: tuple[int, ...]
    pool_ancestors: tuple[int, ...]


def read_survivors(folder: Path) -> pl.DataFrame:
    """Returns the table survivors.parquet of a folder.

    Args:
        folder: the folder of a run or a filter.

    Raises:
        FittestError: the folder has no such table, or the table lacks columns that ours have.
    """
    settle(folder)
    path = folder / "survivors.parquet"
    if not path.is_file():
        raise FittestError(f"{folder}: holds no survivors.parquet; it should be the folder of a run or of a filter")
    survivors = _read(path)
    if missing := [name for name in _NEEDED_COLUMNS if name not in survivors.columns]:
        raise FittestError(f"{path}: lacks the columns {', '.join(missing)}")
    return survivors


def lineage(folder: Path, survivors: pl.DataFrame) -> _Lineage | None:
    """Traces every survivor to the pool through the sealed generations.

    Args:
        folder: the folder of a run or a filter; without sealed generations, `survivors` are the only births known.
        survivors: its survivors.parquet.

    Returns:
        The lineage, or None if the birth of an ancestor is not recorded.
    """
    return _trace(_births(births_on_record(folder, survivors)), survivors["prompt_id"].to_list())


def births_on_record(folder: Path, survivors: pl.DataFrame) -> pl.DataFrame:
    """Returns prompt_id, parents and exemplars of every prompt that passed the gates.

    Args:
        folder: the folder of a run or a filter; without sealed generations, `survivors` are the only births known.
        survivors: its survivors.parquet.
    """
    sealed = sorted((folder / "generations").glob("*.parquet"))
    return pl.concat([_accepted(path) for path in sealed] or [_ancestry(survivors)])


def _accepted(path: Path) -> pl.DataFrame:
    # a duplicate that the exact gate turned away has the id of its original, but not its parents
    return _ancestry(_read(path, "prompt_id", "parents", "exemplars", "gate").filter(pl.col("gate").is_null()))


def _read(path: Path, *columns: str) -> pl.DataFrame:
    refuse_changed(path)
    return read_table(path, columns)


def _ancestry(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("prompt_id", pl.col("parents", "exemplars").cast(pl.List(pl.String)).fill_null([]))


def _births(frame: pl.DataFrame) -> dict[str, list[str]]:
    return {prompt: [*parents, *exemplars] for prompt, parents, exemplars in frame.iter_rows()}


def _trace(births: Mapping[str, list[str]], wanted: Sequence[str]) -> _Lineage | None:
    """Walks from the pool onwards; sets of pool ancestors are bit masks, since they are many and overlap."""
    depths: dict[str, int] = {}
    masks: dict[str, int] = {}
    # a prompt of the pool without offspring needs no bit: with one for each, a large pool would take gigabytes
    ancestors = set(chain.from_iterable(births.values()))
    bits = {
        prompt: place for place, prompt in enumerate(name for name in births if name in ancestors and not births[name])
    }
    try:
        for prompt in _oldest_first(births):
            if prompt not in births:
                return None
            depths[prompt] = max((depths[ancestor] + 1 for ancestor in births[prompt]), default=0)
            masks[prompt] = 1 << bits.get(prompt, 0) if not births[prompt] else 0
            for ancestor in births[prompt]:
                masks[prompt] |= masks[ancestor]
        return _Lineage(
            tuple(depths[prompt] for prompt in wanted), tuple(masks[prompt].bit_count() for prompt in wanted)
        )
    # a damaged or foreign table; a card without a lineage is better than no card
    except (CycleError, KeyError):
        return None


def _oldest_first(births: Mapping[str, list[str]]) -> Iterable[str]:
    """Returns all prompts, each after its parents and exemplars; generations have this order already, as a rule."""
    seen: set[str] = set()
    for prompt, ancestors in births.items():
        if not seen.issuperset(ancestors):
            return TopologicalSorter(births).static_order()
        seen.add(prompt)
    return births
