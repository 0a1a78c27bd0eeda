"""Pareto ranks and fronts of individuals, by moocore instead of DEAP's per-pair Python sorting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import moocore
import numpy as np
from deap import tools

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt


def weighted_values(individuals: Sequence[Prompt]) -> NDArray[np.float64]:
    """DEAP's wvalues, where more is better, shape (individuals, objectives)."""
    return np.array([individual.fitness.wvalues for individual in individuals], dtype=np.float64)


def pareto_ranks(individuals: Sequence[Prompt]) -> NDArray[np.int64]:
    """Rank 0 is the non-dominated front; every individual must have a valid fitness."""
    return ranks_of(weighted_values(individuals))


def ranks_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pareto rank of each row, 0 for the non-dominated ones, where more is better in every column."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.asarray(moocore.pareto_rank(values, maximise=True), dtype=np.int64)


class ParetoFront(tools.ParetoFront):  # type: ignore[misc]
    """`deap.tools.ParetoFront` whose update ranks all at once; it holds each prompt text once, best first."""

    def update(self, population: Iterable[Prompt]) -> None:
        """Merge a population; individuals without a valid fitness are left out."""
        merged = {individual.id: individual for individual in [*self.items, *population] if individual.fitness.valid}
        candidates = list(merged.values())
        ranks = pareto_ranks(candidates)
        front = [individual for individual, rank in zip(candidates, ranks, strict=True) if rank == 0]
        front.sort(key=lambda individual: (individual.fitness, individual.id), reverse=True)
        self.clear()
        self.items.extend(front)
        self.keys.extend(individual.fitness for individual in reversed(front))
