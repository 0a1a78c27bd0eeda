"""Cells divide prompts by the nearest centroid of the pool, and by whatever else places them."""

from __future__ import annotations

import numpy as np

from fittest.evo.archive import Archive
from fittest.evo.cells import Cells, Centroids
from fittest.evo.prompt import Prompt
from fittest.evo.seeds import SeedTree
from fittest.evo.state import State
from fittest.runs.output.journal import SqliteJournal
from tests.evo.divided import ByFirstLetter, survivor

DIMENSION = 8


def _archive(count: int, begin: str = "a") -> tuple[Archive, list[Prompt]]:
    rng = np.random.default_rng(0)
    archive, prompts = Archive(DIMENSION), []
    for number in range(count):
        prompt = survivor(f"{begin[number % len(begin)]}{number}", 0.0)
        vector = rng.standard_normal(DIMENSION).astype(np.float32)
        prompt.embedding = vector / np.linalg.norm(vector)
        archive.add(prompt)
        prompts.append(prompt)
    return archive, prompts


def _centroids(number: int, archive: Archive, journal: SqliteJournal, seed: int = 1) -> Centroids:
    return Centroids(number, archive=archive, seeds=SeedTree(seed), journal=journal)


def test_a_prompt_belongs_to_the_nearest_centroid_whichever_others_are_asked_for() -> None:
    archive, prompts = _archive(60)
    division = _centroids(7, archive, SqliteJournal(":memory:"))
    together = division.places(prompts)
    assert {place for (place,) in together} == set(range(7))
    assert [division.places([prompt])[0] for prompt in prompts] == together
    centres = np.stack(
        [archive.embeddings[[place == (cell,) for place in together]].mean(axis=0) for cell in range(7)]
    )
    nearest = np.linalg.norm(archive.embeddings[:, None] - centres, axis=2).argmin(axis=1)
    assert [(cell,) for cell in nearest.tolist()] == together


def test_cells_are_those_of_the_pool_and_of_the_seed() -> None:
    archive, prompts = _archive(60)
    first = _centroids(7, archive, SqliteJournal(":memory:")).places(prompts)
    assert _centroids(7, archive, SqliteJournal(":memory:")).places(prompts) == first
    assert _centroids(7, archive, SqliteJournal(":memory:"), seed=2).places(prompts) != first


def test_a_resumed_run_takes_its_centroids_from_the_journal() -> None:
    archive, prompts = _archive(60)
    journal = SqliteJournal(":memory:")
    first = _centroids(7, archive, journal).places(prompts)
    # another seed would make others
    assert _centroids(7, archive, journal, seed=2).places(prompts) == first


def test_there_are_no_more_cells_than_different_prompts_in_the_pool() -> None:
    archive, prompts = _archive(5)
    copy = survivor("another text of the same meaning", 0.0)
    copy.embedding = prompts[0].embedding
    archive.add(copy)
    division = _centroids(256, archive, SqliteJournal(":memory:"))
    assert division.axes == [range(5)]
    assert len(set(division.places([*prompts, copy]))) == 5
    assert division.notes == ["archive.cells = 256, but the pool has 5 different prompts: there are 5 cells"]


def test_both_divisions_make_a_cell_of_each_pair() -> None:
    archive, prompts = _archive(12, begin="abc")
    cells = Cells([_centroids(3, archive, SqliteJournal(":memory:")), ByFirstLetter()])
    state = State(survivors=prompts)
    assert cells.count == 3 * 8
    assert cells.figures(state)["coverage"] == len(cells.filled) / 24
    assert cells.filled.total() == 12
    assert {letter for _, letter in cells.filled} == set("abc")
