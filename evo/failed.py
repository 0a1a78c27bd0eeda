"""Keeps the best of the prompts that failed while more of them come: they are not all ranked for each offspring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fittest.evo.pareto import pareto_ranks

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt


class FailedFront:
    """Holds the non-dominated ones of the prompts that had a valid fitness and did not survive.

    Attributes:
        ranked: the number of prompts that were ranked so far.
    """

    def __init__(self) -> None:
        self.ranked = 0
        self.forget()

    def forget(self) -> None:
        """Forgets everything, because it has changed who failed, or how good one of them is."""
        self._scored: list[Prompt] | None = None
        self._taken = 0
        self._front: list[Prompt] = []
        self._changed: list[Prompt] = []

    def measured_again(self, prompts: Iterable[Prompt]) -> None:
        """Notes that the fitness of some prompts is about to change.

        A prompt outside the front stays below it or joins it, whatever it is worth now. When one of the front changes,
        any other may take its place.
        """
        changed = [prompt for prompt in prompts if _failed(prompt)]
        front = set(map(id, self._front))
        if any(id(prompt) in front for prompt in changed):
            self.forget()
        else:
            self._changed += changed

    def follow(self, scored: list[Prompt]) -> Sequence[Prompt]:
        """Returns the front of a list, sorted by id, in which prompts have only been appended since the last time."""
        if scored is not self._scored or len(scored) < self._taken:
            self.forget()
            self._scored = scored
        come = [prompt for prompt in [*self._changed, *scored[self._taken :]] if _failed(prompt)]
        self._taken, self._changed = len(scored), []
        if come:
            candidates = list({id(prompt): prompt for prompt in [*self._front, *come]}.values())
            self.ranked += len(candidates)
            ranks = pareto_ranks(candidates).tolist()
            front = [prompt for prompt, rank in zip(candidates, ranks, strict=True) if rank == 0]
            # another list: what was returned before may still be in use
            self._front = sorted(front, key=_identity)
        return self._front


def _failed(prompt: Prompt) -> bool:
    return not prompt.breeds and bool(prompt.fitness.valid)


def _identity(prompt: Prompt) -> str:
    return prompt.id
