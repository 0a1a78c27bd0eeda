"""Divides survivors into train and test, so that no prompt is tested whose parent or child is trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from fittest.runs.output.survivors import births_on_record

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Split:
    """Says which survivors are for testing.

    Attributes:
        test: whether each survivor is, shape (survivors,).
        crossing: how many exemplar edges have one end on either side.
        notes: lines for the reader about shares and edges.
    """

    test: NDArray[np.bool_]
    crossing: int
    notes: tuple[str, ...]


def split_by_family(folder: Path, survivors: pl.DataFrame, share: float, seed: int) -> Split:
    """Takes whole families for the test side, until it has the share that was asked for.

    A family is a connected component of the edges between parents and children, through prompts that did not survive
    as well. Families are taken in the order of SHA-256(seed, least prompt_id); one that is too large for what is still
    wanted is passed over. The largest ones are taken first if that comes closer to the share. If all are too large,
    the smallest one is taken, unless it is the only one.

    Args:
        folder: the folder of a run or a filter.
        survivors: the survivors that are exported, one row for each prompt.
        share: the share of survivors that is wanted for testing, between 0 and 1.
        seed: the seed of the run.
    """
    # a folder may lack the generation of a survivor, whose own row then says who its parents are
    births = pl.concat([births_on_record(folder, survivors), survivors.select("prompt_id", "parents", "exemplars")])
    families = _families(survivors["prompt_id"], births)
    test = _taken(families, survivors["prompt_id"].to_list(), round(share * survivors.height), seed)
    crossing = _crossing(survivors, test)
    return Split(test, crossing, _notes(test, families, share, crossing))


def _families(prompt_ids: pl.Series, births: pl.DataFrame) -> NDArray[np.int64]:
    """Returns the number of each prompt's family, shape (prompts,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = births.select("prompt_id", parent="parents").explode("parent").drop_nulls()
    names = pl.concat([prompt_ids, edges["prompt_id"], edges["parent"]]).unique(maintain_order=True)
    places = pl.DataFrame({"name": names, "place": np.arange(len(names))})

    def place_of(column: pl.Series) -> NDArray[np.int64]:
        found = pl.DataFrame({"name": column}).join(places, on="name", how="left", maintain_order="left")
        return found["place"].to_numpy()

    ends = place_of(edges["prompt_id"]), place_of(edges["parent"])
    graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(names), len(names)))
    _, labels = connected_components(graph, directed=False)
    families: NDArray[np.int64] = labels[place_of(prompt_ids)].astype(np.int64)
    return families


def _taken(families: NDArray[np.int64], prompt_ids: list[str], wanted: int, seed: int) -> NDArray[np.bool_]:
    """Takes families in their drawn order, each that still fits; large ones first if that comes closer."""
    _, members, sizes = np.unique(families, return_inverse=True, return_counts=True)
    least = ["~"] * len(sizes)  # sorts behind every hexadecimal digit
    for family, name in zip(members.tolist(), prompt_ids, strict=True):
        least[family] = min(least[family], name)
    order = sorted(range(len(sizes)), key=lambda family: hashlib.sha256(f"{seed}:{least[family]}".encode()).digest())
    # in the drawn order, small families may take the room without which a large one does not fit
    fills = [_filled(order, sizes, wanted), _filled(sorted(order, key=lambda family: -sizes[family]), sizes, wanted)]
    chosen = max(fills, key=lambda fill: int(sizes[fill].sum()))
    if wanted and not chosen.any() and len(sizes) > 1:
        chosen[min(order, key=lambda family: int(sizes[family]))] = True
    test: NDArray[np.bool_] = chosen[members] if len(sizes) else np.zeros(0, dtype=bool)
    return test


def _filled(order: list[int], sizes: NDArray[np.int64], room: int) -> NDArray[np.bool_]:
    """Tells which families are taken if each that still fits is taken."""
    chosen = np.zeros(len(sizes), dtype=bool)
    for family in order:
        if sizes[family] <= room:
            chosen[family] = True
            room -= int(sizes[family])
    return chosen


def _crossing(survivors: pl.DataFrame, test: NDArray[np.bool_]) -> int:
    """Counts the pairs of a survivor and its exemplar that are exported on different sides."""
    sides = survivors.select("prompt_id").with_columns(test=pl.Series(test))
    edges = (
        survivors.select("exemplars")
        .with_columns(test=pl.Series(test))
        .explode("exemplars")
        .join(sides, left_on="exemplars", right_on="prompt_id", how="inner", suffix="_exemplar")
    )
    return edges.filter(pl.col("test") != pl.col("test_exemplar")).height


def _notes(test: NDArray[np.bool_], families: NDArray[np.int64], share: float, crossing: int) -> tuple[str, ...]:
    total, reached = len(test), int(test.sum())
    numbers = np.unique(families, return_counts=True)[1]
    notes = [
        f"split: {reached} of {total} survivors for testing ({reached / total if total else 0:.1%}); no parent–child"
        f" edge crosses it, {crossing} exemplar edges do"
    ]
    if reached != round(share * total):
        notes.append(
            f"the share {share:g} could not be reached, since families are not divided: the survivors form"
            f" {len(numbers)} of them, the largest has {numbers.max(initial=0)}"
        )
    notes += [f"no survivor is left for {side}" for side, rows in (("training", total - reached), ("testing", reached))
              if total and not rows]  # fmt: skip
    return tuple(notes)
