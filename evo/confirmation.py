"""Fresh draws: a prompt that passed once is sampled again before it is believed (docs/design/confirmation.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fittest.evo.ordering import at_once
from fittest.evo.spending import Ledger, charged_to

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.prompt import Prompt
    from fittest.evo.records import FreshDraw, Thresholds
    from fittest.evo.state import State
    from fittest.evo.survival import Survival

OnDrawn = Callable[["Prompt", "FreshDraw"], None]


class Confirmation:
    """Draws responses of prompts that passed their first draw, until a draw fails or all have passed.

    Without this, most survivors of a small draw owe their place to luck: they are the best of many noisy values (the
    winner's curse), and a fresh draw of the same prompt fails the same cuts.

    Args:
        draws: how many fresh draws a prompt has to pass; 0 confirms nothing.
        toolbox: `fresh_draw` is looked up in it when it is needed.
        survival: tells by the toolbox's rule whether a draw passes.
        state: counts what fresh draws cost.
        on_drawn: called with each prompt and each fresh draw of it; it may put the responses away.
    """

    def __init__(
        self, draws: int, *, toolbox: base.Toolbox, survival: Survival, state: State, on_drawn: OnDrawn | None = None
    ) -> None:
        self.draws = draws
        self._toolbox = toolbox
        self._survival = survival
        self._state = state
        self._on_drawn = on_drawn

    def wanted(self, prompt: Prompt, thresholds: Thresholds) -> bool:
        """Tells whether fresh draws decide if a prompt survives: its first draw passes, and none was made since."""
        return self.draws > 0 and not prompt.fresh and self._survival.passes(prompt, thresholds)

    async def confirm(self, prompts: Sequence[Prompt], thresholds: Thresholds, *, at_most: int = 1) -> None:
        """Draws each prompt again and again, one draw after another, up to the first that fails the cuts.

        Args:
            prompts: prompts that passed their first draw.
            thresholds: the cuts of their generation, which also race each draw.
            at_most: so many prompts are drawn at the same time.
        """
        self._state.unconfirmed.update(prompts)

        async def work(prompt: Prompt) -> None:
            await self._confirm(prompt, thresholds)
            self._state.unconfirmed.discard(prompt)

        await at_once(work, prompts, at_most=at_most)

    async def _confirm(self, prompt: Prompt, thresholds: Thresholds) -> None:
        for number in range(1, self.draws + 1):
            with self._charged(prompt):
                draw = await self._drawn(prompt, number, thresholds, raced=True)
            prompt.fresh += (draw,)
            if self._on_drawn is not None:
                self._on_drawn(prompt, draw)
            if not draw.passed:
                return

    async def draw_in_full(self, prompt: Prompt, thresholds: Thresholds) -> FreshDraw:
        """Returns the draw after those that can decide anything; it is sampled fully and changes nothing.

        Args:
            prompt: a survivor.
            thresholds: the cuts of its generation.
        """
        return await self._drawn(prompt, self.draws + 1, thresholds, raced=False)

    async def _drawn(self, prompt: Prompt, number: int, thresholds: Thresholds, *, raced: bool) -> FreshDraw:
        draw: FreshDraw = await self._toolbox.fresh_draw(prompt, number, thresholds if raced else None)
        if draw.metrics is not None:
            (draw.failed,) = self._survival.failures(prompt.birth.generation, [draw.metrics], thresholds)
            draw.passed = not draw.failed
        return draw

    @contextmanager
    def _charged(self, prompt: Prompt) -> Iterator[None]:
        """Charges the block to the prompt, and to the confirmations of the run."""
        own = Ledger()
        try:
            with charged_to(own):
                yield
        finally:
            # also when a cap ends the run: what was answered is paid for
            prompt.spent += own
            self._state.confirming += own
