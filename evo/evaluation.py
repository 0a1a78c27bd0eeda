"""Evaluation of prompts by the toolbox: what an `evaluate` may look like, and who is charged for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import RIP_METRICS, Metrics
from fittest.evo.spending import charged_to

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State


class Evaluation:
    """Evaluates prompts by `toolbox.evaluate`, which is looked up anew each time.

    `evaluate(individuals)` may be async and is called for one prompt as soon as the prompt has passed the gates. A
    plain DEAP `evaluate(individual)` is mapped over many prompts by `toolbox.map`.

    Args:
        toolbox: holds `evaluate` and `map`.
        state: counts what has been evaluated.
        on_evaluated: called with each prompt that has been evaluated; it may put the responses away.
    """

    def __init__(
        self, toolbox: base.Toolbox, state: State, on_evaluated: Callable[[Prompt], None] | None = None
    ) -> None:
        self._toolbox = toolbox
        self._state = state
        self._on_evaluated = on_evaluated

    @property
    def streams(self) -> bool:
        """Tells whether prompts are evaluated one by one as they come, and not mapped."""
        return next(iter(inspect.signature(self._toolbox.evaluate).parameters)) == "individuals"

    async def evaluate(self, prompt: Prompt) -> None:
        """Evaluates one prompt, which is charged with what that costs."""
        with charged_to(prompt.spent):
            values = self._toolbox.evaluate([prompt])
            _take_values(prompt, (await values if inspect.isawaitable(values) else values)[0])
        self._state.sampled_in_all += prompt.n_drawn > 0
        self._state.drawn_in_all += prompt.n_drawn
        self._finish(prompt)

    def map(self, prompts: Sequence[Prompt]) -> None:
        """Evaluates prompts by a plain DEAP `evaluate(individual)`."""
        for prompt, values in zip(prompts, self._toolbox.map(self._toolbox.evaluate, prompts), strict=True):
            _take_values(prompt, values)
            self._finish(prompt)

    def _finish(self, prompt: Prompt) -> None:
        self._state.evaluated += 1
        if self._on_evaluated is not None:
            self._on_evaluated(prompt)


def _take_values(prompt: Prompt, values: Sequence[float] | None) -> None:
    """Takes over what an evaluate returned, unless it has set the metrics itself."""
    count = len(RIP_METRICS)
    if prompt.metrics is None and values is not None and np.isfinite(values[:count]).all():
        m1, m2, m3 = values[:count]
        prompt.metrics = Metrics(m1=m1, m2=int(m2), m3=m3, chosen=-1, rejected=-1, n=0)
