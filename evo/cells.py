"""Cells: where among all prompts a survivor lies, and how full each place is (docs/design/archive.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fittest.evo.seeds import SeedTree, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.archive import Archive
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Journal
    from fittest.evo.state import State

Cell = tuple[Hashable, ...]
"""Names a cell by its place on every axis."""


class Division(Protocol):
    """Divides prompts along one or more axes."""

    @property
    def axes(self) -> Sequence[Sequence[Hashable]]:
        """Holds the places on each axis; they are known once the pool is in the archive."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Says what a reader of the tables should know."""
        ...

    @property
    def asks(self) -> bool:
        """Says whether something has to be asked about a prompt before it can be placed."""
        ...

    async def learn(self, prompt: Prompt) -> None:
        """Asks for what has to be known of a prompt before it can be placed."""
        ...

    def places(self, prompts: Sequence[Prompt]) -> Sequence[Cell | None]:
        """Returns the place of each prompt on these axes; None of a prompt of which too little is known."""
        ...


class Cells:
    """Places survivors in cells, and counts them.

    Args:
        divisions: their axes together make the cells; each combination of places is one cell.

    Attributes:
        filled: the number of survivors in each cell that has any.
        unplaced: the number of survivors that are in no cell.
    """

    def __init__(self, divisions: Sequence[Division]) -> None:
        self.filled: Counter[Cell] = Counter()
        self.unplaced = 0
        self._divisions = list(divisions)
        self._taken = 0
        self._as_of = (-1, -1)
        self._cell_of: dict[str, Cell | None] = {}

    @property
    def axes(self) -> list[Sequence[Hashable]]:
        """Returns the axes of all divisions."""
        return [axis for division in self._divisions for axis in division.axes]

    @property
    def count(self) -> int:
        """Returns how many cells there are; without any division there is none."""
        return prod(len(axis) for axis in self.axes) if self._divisions else 0

    @property
    def notes(self) -> list[str]:
        """Returns what a reader of the tables should know of the cells, which is nothing where they decide nothing."""
        return []

    @property
    def asks(self) -> bool:
        """Tells whether something has to be asked about a survivor."""
        return any(division.asks for division in self._divisions)

    async def learn(self, prompt: Prompt) -> None:
        """Asks for what has to be known of a prompt before it can be placed."""
        for division in self._divisions:
            await division.learn(prompt)

    def figures(self, state: State) -> dict[str, Any]:
        """Returns what the logbook says of the cells when a generation is finished."""
        self.follow(state)
        # without a pool there is no cell
        return {"coverage": len(self.filled) / self.count if self.count else None, "qd_score": None}

    def follow(self, state: State) -> None:
        """Places the survivors that have come since the last time.

        All are placed anew when a generation is finished, since scores change with what is known of the population,
        and when a judge that was trained has changed who is bred from.

        Args:
            state: what the run has reached.
        """
        if self._as_of != (len(state.finished), state.revisions):
            self._as_of, self._taken = (len(state.finished), state.revisions), 0
            self._empty()
        fresh = [prompt for prompt in state.survivors[self._taken :] if prompt.breeds]
        first, self._taken = self._taken, len(state.survivors)
        if fresh or not first:
            self._fill(state, fresh)

    def _empty(self) -> None:
        self.filled.clear()
        self.unplaced = 0

    def _fill(self, state: State, fresh: Sequence[Prompt]) -> None:
        cells = [cell for cell in self.cells_of(fresh) if cell is not None]
        self.filled.update(cells)
        self.unplaced += len(fresh) - len(cells)

    def cells_of(self, prompts: Sequence[Prompt]) -> list[Cell | None]:
        """Returns the cell of each prompt, which is found once."""
        unknown = [prompt for prompt in prompts if prompt.id not in self._cell_of]
        if unknown:
            for prompt, *places in zip(unknown, *(each.places(unknown) for each in self._divisions), strict=True):
                self._cell_of[prompt.id] = _joined(places)
        return [self._cell_of[prompt.id] for prompt in prompts]


class Centroids:
    """Divides prompts by the nearest of some centroids: a centroidal Voronoi tessellation of the pool.

    The centroids are those of k-means on the embeddings of the pool (Vassiliades et al. 2018, IEEE Transactions on
    Evolutionary Computation 22, do so with random points, since their space has known bounds). They are kept in the
    journal, so that a run that is resumed has the same cells whatever computes them then.

    Args:
        number: how many centroids there are at most; the pool has at least one prompt for each of them.
        archive: holds the pool, and nothing else, when the axis is asked for first.
        seeds: the run's seed tree.
        journal: keeps the centroids; without it they are made anew, which will do for cells that decide nothing.
    """

    asks = False

    def __init__(self, number: int, *, archive: Archive, seeds: SeedTree, journal: Journal | None = None) -> None:
        self.notes: list[str] = []
        self._number = number
        self._archive = archive
        self._seeds = seeds
        self._journal = journal
        self._tree: Any = None

    @property
    def axes(self) -> Sequence[Sequence[int]]:
        """Holds the numbers of the centroids."""
        return [range(self._nearest.n)]

    async def learn(self, prompt: Prompt) -> None:
        """Asks for nothing: a prompt that passed the gates has its embedding."""

    def places(self, prompts: Sequence[Prompt]) -> Sequence[Cell]:
        """Returns the number of the centroid that is nearest to each prompt."""
        # each row is looked up by itself, so a place does not depend on which others are asked for
        _, numbers = self._nearest.query(self._archive.embeddings[self._archive.rows(prompts)])
        return [(number,) for number in numbers.tolist()]

    @property
    def _nearest(self) -> Any:
        if self._tree is None:
            from scipy.spatial import KDTree

            self._tree = KDTree(self._centroids())
        return self._tree

    def _centroids(self) -> NDArray[np.float32]:
        """Returns the centroids, shape (cells, dimension)."""
        pool = np.unique(self._archive.embeddings, axis=0)
        number = min(self._number, len(pool))
        if number < self._number:
            self.notes.append(
                f"archive.cells = {self._number}, but the pool has {number} different prompts: there are {number}"
                " cells"
            )
        if not number:
            return pool
        return self._made(pool, number) if self._journal is None else self._kept(self._journal, pool, number)

    def _kept(self, journal: Journal, pool: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        known = [journal.embedding(_FINGERPRINT, str(place)) for place in range(number)]
        found = [vector for vector in known if vector is not None]
        if len(found) == number:
            return np.stack(found)
        made = self._made(pool, number)
        for place, vector in enumerate(made):
            journal.record_embedding(_FINGERPRINT, str(place), vector)
        return made

    def _made(self, pool: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        from sklearn.cluster import k_means
        from threadpoolctl import threadpool_limits

        seed = self._seeds.engine_seed(Stream.CELLS)
        # on one thread, since several add up their parts in the order in which they end
        with threadpool_limits(1):
            centroids, *_ = k_means(pool, number, n_init=1, init="random", random_state=seed)
        return np.asarray(centroids, dtype=np.float32)


_FINGERPRINT = "centroids:1"
"""Centroids are kept in the journal under it, as embeddings of their numbers."""


def _joined(places: Sequence[Cell | None]) -> Cell | None:
    """Returns the cell that has these places; None if one of them is not known."""
    known = [place for place in places if place is not None]
    return tuple(part for place in known for part in place) if len(known) == len(places) else None
