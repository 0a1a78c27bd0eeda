"""Says in summary.json how far the first draws of a run's pool repeat themselves."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.records import METRICS, RIP_METRICS, Thresholds
from fittest.fitness.pairing import parse_pairing
from fittest.fitness.repeatability import Keep, repeatability
from fittest.operators.policies import CutRule
from fittest.operators.rejection import rule_that_keeps
from fittest.runs.output.retested import NO_CUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.prompt import Prompt
    from fittest.runs.config import Config

_RACED = "the pool was raced, and those that did not lose are not typical of it"


class PoolHalves:
    """Collects rewards and lengths of the pool's answers, and compares the halves of each draw.

    Offspring are left out: most of them are raced, and their parents were selected.

    Args:
        config: names the cuts, which halves are cut by as the whole is.
        length_unit: measures a response.
    """

    def __init__(self, config: Config, length_unit: Callable[[str], int]) -> None:
        self._config = config
        self._length_unit = length_unit
        self._raced = False
        self._answers: dict[int, tuple[str, array[float], array[int]]] = {}
        self._record: dict[str, Any] | None = None

    def take(self, prompt: Prompt) -> None:
        """Takes the first draw of a prompt, if it is of the pool and was not raced."""
        if prompt.birth.generation or not prompt.responses:
            return
        if prompt.audited is False:
            self._raced = True
            return
        cap = self._config.selection.length_cap or math.inf
        rewards = (math.nan if response.reward is None else response.reward for response in prompt.responses)
        lengths = (int(min(self._length_unit(response.text or ""), cap)) for response in prompt.responses)
        self._answers[prompt.birth.slot] = (prompt.id, array("d", rewards), array("q", lengths))

    def record(self, thresholds: Thresholds) -> dict[str, Any]:
        """Returns `repeatability` of summary.json, which is computed once.

        Args:
            thresholds: the cuts of the pool.
        """
        if self._record is None:
            self._record = self._computed(thresholds)
            self._answers = {}
        return self._record

    def _computed(self, thresholds: Thresholds) -> dict[str, Any]:
        # in slot order, so that the order in which answers came decides nothing
        answers = [self._answers[slot] for slot in sorted(self._answers)]
        if self._raced and len(answers) < 2:
            empty = dict.fromkeys((*RIP_METRICS, "survive"))
            return {**empty, "notes": dict.fromkeys(empty, _RACED)}
        seed, pairing = self._config.run.seed, parse_pairing(self._config.selection.pairing)
        rewards, lengths = ([value for each in answers for value in each[place]] for place in (1, 2))
        return repeatability(
            np.array(rewards, dtype=np.float64),
            np.array(lengths, dtype=np.int64),
            np.array([len(values) for _, values, _ in answers], dtype=np.int64),
            keep=self._keep(thresholds),
            metrics=[name for name in METRICS if name in self._cut_metrics(thresholds)],
            pairing=pairing,
            draws=pairing.draws(seed, [name for name, _, _ in answers]),
            seed=seed,
        )

    def _cut_metrics(self, thresholds: Thresholds) -> Sequence[str]:
        return [*self._config.selection.metrics, *thresholds.bounds]

    def _keep(self, thresholds: Thresholds) -> Keep | str:
        """Returns the rule of the pool, which fits its cuts anew to each half if they were fitted to the whole."""
        section = self._config.selection
        if section.BY_RANK or self._config.run.arm == "best-of-n":
            return NO_CUTS
        levels = section.levels
        rule = thresholds if levels is None else CutRule(levels, section.bounds, section.quantile)
        return rule_that_keeps(rule, section.metrics)
