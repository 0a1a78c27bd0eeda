"""Shares of operators: as a mix says, or matched to what each of them brings for what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Stage

AdaptName = Literal["none", "probability-matching"]

_FLOOR = 0.05
"""The least share of an operator, so that each goes on showing what it is worth (docs/design/operators.md)."""

_PAID: tuple[Stage, ...] = ("proposal", "rollout", "judge")
"""An audit decides nothing, so its tokens must not count; references may be its own, so they do not count either."""


class Shares:
    """Holds how likely each operator is to be drawn, which stays as the mix says.

    Args:
        mix: the weight of each operator.

    Attributes:
        names: the operators, sorted.
        probabilities: how likely each of them is to be drawn.
    """

    def __init__(self, mix: Mapping[str, float]) -> None:
        self.names = sorted(mix)
        total = sum(mix.values())
        self.probabilities = [mix[name] / total for name in self.names]

    @property
    def figures(self) -> dict[str, float]:
        """Returns what the logbook says of the shares, which is nothing of those that stay."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """Returns what a reader of the tables should know of the shares."""
        return []

    def learn(self, candidates: Iterable[Prompt]) -> None:
        """Takes note of a generation that is sealed; it is called once for each, in order."""


class MatchedShares(Shares):
    """Draws each operator in proportion to its survivors for each token spent on its offspring.

    This is probability matching (Goldberg 1990; Thierens 2005, GECCO) with the survivors of all sealed generations,
    who have passed their fresh draws, as the reward. Each operator is credited with one survivor more, at the rate of
    all operators together, so that few offspring do not say much. Operators without a weight in the mix stay out.
    """

    def __init__(self, mix: Mapping[str, float]) -> None:
        super().__init__(mix)
        self._drawn = [place for place, probability in enumerate(self.probabilities) if probability]
        self._survivors: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def figures(self) -> dict[str, float]:
        """Returns the share of each operator, as of the generations that are sealed."""
        return {f"share_{name}": share for name, share in zip(self.names, self.probabilities, strict=True)}

    @property
    def notes(self) -> Sequence[str]:
        """Returns what a reader of the tables should know of the shares."""
        if self._survivors.total() and not self._tokens.total():
            return [
                "operators stay as in the mix, since the engine counts no tokens that survivors could be set against"
            ]
        return []

    def learn(self, candidates: Iterable[Prompt]) -> None:
        """Matches the shares to all generations that are sealed; before any offspring survive, they stay as they are.

        Args:
            candidates: all of the generation, those that a gate turned away among them.
        """
        known = {self.names[place] for place in self._drawn}
        for prompt in candidates:
            if prompt.birth.operator in known:
                self._survivors[prompt.birth.operator] += prompt.survived
                self._tokens[prompt.birth.operator] += sum(prompt.spent[stage].tokens for stage in _PAID)
        survivors, tokens = self._survivors.total(), self._tokens.total()
        if not (survivors and tokens):
            return
        names = [self.names[place] for place in self._drawn]
        rates = np.array([(self._survivors[name] + 1) / (self._tokens[name] + tokens / survivors) for name in names])
        floor = min(_FLOOR, 1 / len(names))
        matched = floor + (1 - floor * len(names)) * rates / rates.sum()
        for place, probability in zip(self._drawn, matched.tolist(), strict=True):
            self.probabilities[place] = probability


SHARES: dict[AdaptName, type[Shares]] = {"none": Shares, "probability-matching": MatchedShares}
"""What becomes of the mix of a run, by the name that a configuration has for it."""
