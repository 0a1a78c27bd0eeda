"""Elites: the best survivor of each cell, from which parents and exemplars are drawn (docs/design/archive.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.breeding import Stock
from fittest.evo.cells import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.cells import Cell, Division
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

    Scores = Callable[[State, Sequence[Prompt]], NDArray[np.float64]]


class Elites(Cells):
    """Keeps the best survivor of each cell, as MAP-Elites does (Mouret and Clune, arXiv 1504.04909).

    What pyribs calls an archive is not `fittest.evo.archive`, which holds every prompt that passed the gates. Its
    measures are the places on the axes, and its objective is the score.

    Args:
        divisions: as `Cells` takes them.
        scores: returns what prompts are worth, more of which is better, as far as the state tells; of equals, the one
            that joined first is the elite.
        otherwise: the stock that tops up where elites are too few.
    """

    def __init__(self, divisions: Sequence[Division], *, scores: Scores, otherwise: Callable[[State], Stock]) -> None:
        super().__init__(divisions)
        self._scores = scores
        self._otherwise = otherwise
        self._ribs: Any = None
        self._placed: list[Prompt] = []
        self._elites: list[tuple[Prompt, float]] | None = None

    @property
    def notes(self) -> list[str]:
        """Returns what a reader of the tables should know of the cells."""
        placed = self.filled.total()
        lost = (
            f"{self.unplaced} of {self.unplaced + placed} survivors are in no cell: the engine's label is unreadable"
        )
        return [note for division in self._divisions for note in division.notes] + [lost] * bool(self.unplaced)

    def stock(self, state: State) -> Stock:
        """Returns what is bred from now: elites, those of under-filled cells first.

        A cell is under-filled if it holds no more survivors than the median of the cells that hold any. At least half
        of the elites therefore come first, and a single cell that lags behind does not become the parent of all.

        Args:
            state: what the run has reached.
        """
        self.follow(state)
        elites = [elite for elite, _ in self._kept()]
        median = np.median(list(self.filled.values())) if self.filled else 0.0
        sparse = [self.filled[cell] <= median for cell in self.cells_of(elites) if cell is not None]
        otherwise = self._otherwise(state)
        return _CellStock(
            **{field.name: getattr(otherwise, field.name) for field in fields(Stock)},
            under_filled=[elite for elite, first in zip(elites, sparse, strict=True) if first],
            others=[elite for elite, first in zip(elites, sparse, strict=True) if not first],
        )

    def figures(self, state: State) -> dict[str, Any]:
        """Returns coverage and QD score: the sum over all elites of the share of the pool that each is better than.

        A share and not the score itself, which has no lower end and changes its scale with the population.
        """
        found = super().figures(state)
        pool = state.finished[0].candidates
        known = np.sort(self._scores(state, [prompt for prompt in pool if prompt.metrics is not None]))
        lost = sum(prompt.eliminated for prompt in pool)
        scores = [score for _, score in self._kept()]
        better = lost + np.searchsorted(known, scores, side="left")
        return {**found, "qd_score": float((better / max(1, lost + len(known))).sum())}

    def _empty(self) -> None:
        super()._empty()
        self._placed.clear()
        self._elites = None
        if self._ribs is not None:
            self._ribs.clear()

    def _fill(self, state: State, fresh: Sequence[Prompt]) -> None:
        super()._fill(state, fresh)
        best: dict[Cell, tuple[float, int]] = {}
        for place, (cell, score) in enumerate(
            zip(self.cells_of(fresh), self._scores(state, fresh).tolist(), strict=True), start=len(self._placed)
        ):
            if cell is not None and (cell not in best or score > best[cell][0]):
                best[cell] = score, place
        self._placed += fresh
        for cell, (score, place) in best.items():
            # one by one: the first batch of a process costs seconds, in which pyribs compiles how it is added
            self._made().add_single(place, score, list(cell))
        self._elites = None

    def _made(self) -> Any:
        if self._ribs is None:
            from ribs.archives import CategoricalArchive

            self._ribs = CategoricalArchive(solution_dim=(), solution_dtype=np.int64, categories=self.axes)
        return self._ribs

    def _kept(self) -> list[tuple[Prompt, float]]:
        """Returns the elites and their scores, in the order of their cells."""
        if self._elites is None:
            places, scores, cells = self._made().data(["solution", "objective", "index"], return_type="tuple")
            order = np.argsort(cells)
            self._elites = [
                (self._placed[place], score)
                for place, score in zip(places[order].tolist(), scores[order].tolist(), strict=True)
            ]
        return self._elites


@dataclass(frozen=True)
class _CellStock(Stock):
    """Draws from elites, and from the stock that it extends where these are too few.

    Attributes:
        under_filled: the elites of cells that hold no more survivors than the median.
        others: all other elites.
    """

    under_filled: Sequence[Prompt] = ()
    others: Sequence[Prompt] = ()

    def draw_parents(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draws elites without replacement, and parents as the other stock does if there are too few elites."""
        drawn = self._draw_elites(count, rng, without=())
        if len(drawn) == count:
            return drawn
        more = [prompt for prompt in super().draw_parents(count + len(drawn), rng) if prompt not in drawn]
        return [*drawn, *more[: count - len(drawn)]]

    def draw_exemplars(
        self, shots: int, rng: np.random.Generator, *, without: Sequence[Prompt]
    ) -> tuple[list[Prompt], list[Prompt]]:
        """Draws elites without replacement, and exemplars as the other stock does if there are too few elites.

        Args:
            shots: the number of exemplars.
            rng: draws them.
            without: the parents.

        Returns:
            Survivors, and, when they are too few, the best of those that failed.
        """
        drawn = self._draw_elites(shots, rng, without=without)
        if len(drawn) == shots:
            return drawn, []
        more, topped_up = super().draw_exemplars(shots - len(drawn), rng, without=[*without, *drawn])
        return [*drawn, *more], topped_up

    def _draw_elites(self, count: int, rng: np.random.Generator, *, without: Sequence[Prompt]) -> list[Prompt]:
        """Draws from the under-filled cells alone as long as there are enough of them, each as likely as another."""
        drawn: list[Prompt] = []
        for elites in (self.under_filled, self.others):
            free = [elite for elite in elites if elite not in without]
            places = rng.choice(len(free), size=min(count - len(drawn), len(free)), replace=False)
            drawn += [free[place] for place in places.tolist()]
        return drawn
