"""Picks the parents of an offspring by merit: the best of a few, or whoever is good at something (DEAP's selections).

DEAP's own functions draw from the global `random`. These draw from the generator of the slot, so that a draw depends
on seed, generation, slot and population alone, and never take the same prompt twice for one offspring.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.breeding import beside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.breeding import Choose
    from fittest.evo.merit import Merit
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

SIZE = 3
"""How many prompts enter a tournament."""


def tournament(state: State, prompts: Sequence[Prompt], *, merit: Merit) -> Choose:
    """Returns a choice of parents each of which has the highest merit of `SIZE` prompts drawn at random.

    As in `deap.tools.selTournament`, a prompt may enter the same tournament more than once.

    Args:
        state: what the run has reached.
        prompts: those to choose from.
        merit: scores them.
    """
    merit.follow(state)
    return partial(_best_of_few, prompts, merit)


def lexicase(state: State, prompts: Sequence[Prompt], *, merit: Merit) -> Choose:
    """Returns a choice of parents by automatic ε-lexicase selection (La Cava, Spector and Danai 2016).

    The metrics are looked at one after the other in random order. Who is worse than the best by more than the median
    absolute deviation of those that are left is out, as in `deap.tools.selAutomaticEpsilonLexicase`.

    Args:
        state: what the run has reached.
        prompts: those to choose from.
        merit: gives what they are compared by.
    """
    merit.follow(state)
    return _Lexicase(prompts, merit)


def _best_of_few(prompts: Sequence[Prompt], merit: Merit, count: int, rng: np.random.Generator) -> list[Prompt]:
    chosen: list[int] = []
    for _ in range(count):
        out = sorted(chosen)
        entered = [beside(place, out) for place in rng.integers(len(prompts) - len(out), size=SIZE).tolist()]
        chosen.append(max(entered, key=lambda place: merit.score(prompts[place])))
    return [prompts[place] for place in chosen]


class _Lexicase:
    def __init__(self, prompts: Sequence[Prompt], merit: Merit) -> None:
        self._prompts = prompts
        self._merit = merit
        self._best_of_all: dict[tuple[int, ...], NDArray[np.int64]] = {}

    @cached_property
    def _cases(self) -> NDArray[np.float64]:
        return self._merit.cases(self._prompts)

    def __call__(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        chosen: list[int] = []
        for _ in range(count):
            order = tuple(rng.permutation(self._cases.shape[1]).tolist())
            best = self._best_but(chosen, order) if chosen else self._best(order)
            chosen.append(int(best[rng.integers(len(best))]))
        return [self._prompts[place] for place in chosen]

    def _best(self, order: tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the places of those that pass all metrics in this order, of which there are few."""
        if order not in self._best_of_all:
            self._best_of_all[order] = self._best_but([], order)
        return self._best_of_all[order]

    def _best_but(self, chosen: Sequence[int], order: tuple[int, ...]) -> NDArray[np.int64]:
        left = np.delete(np.arange(len(self._prompts)), chosen)
        for case in order:
            values = self._cases[left, case]
            deviation = np.median(np.abs(values - np.median(values)))
            left = left[values >= values.max() - deviation]
        return left
