"""Counts the candidates of a run, of which each finished generation is looked at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fittest.runs.output.warnings import count_race, warnings_of_generation

if TYPE_CHECKING:
    from fittest.evo.state import Generation


@dataclass
class CandidateCounts:
    """Holds what the summary says of all candidates, so that it need not look at them again.

    Attributes:
        generations: how many are counted.
        candidates: all candidates of them.
        gated: how many each gate turned away.
        scored: how many prompts have each number of scored responses.
        race: what `count_race` has counted.
        warnings: what a reader should know of single generations.
    """

    generations: int = 0
    candidates: int = 0
    gated: Counter[str] = field(default_factory=Counter)
    scored: Counter[int] = field(default_factory=Counter)
    race: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def follow(self, finished: Sequence[Generation]) -> None:
        """Counts the generations that have been finished since the last time."""
        for generation in finished[self.generations :]:
            prompts = generation.candidates
            self.candidates += len(prompts)
            self.gated.update(prompt.gate for prompt in prompts if prompt.gate is not None)
            self.scored.update(prompt.metrics.n for prompt in prompts if prompt.metrics is not None)
            self.race.update(count_race([prompt for prompt in prompts if prompt.n_drawn]))
            self.warnings += warnings_of_generation(generation)
        self.generations = len(finished)
