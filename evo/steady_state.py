"""Evolution without a barrier between generations: an offspring is bred whenever the engine has room for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fittest.evo.evolution import WORKERS_PER_SLOT, Evolution, takes_individuals
from fittest.evo.records import Milestone

if TYPE_CHECKING:
    from fittest.evo.breeding import Draw, Stock
    from fittest.evo.ordering import MilestoneOrder
    from fittest.evo.prompt import Prompt


class SteadyState(Evolution):
    """The asynchronous (μ + 1) form of the loop: each offspring joins the population as soon as it is scored.

    The pool comes first, since the cuts are fitted to it. From then on an offspring is bred, from all that has joined
    so far, whenever fewer requests wait than the engine has slots. A generation is `settings.offspring` births in a
    row; it is finished when all of them have joined or were turned away, while later ones are under way.

    Who was there first decides what an offspring is bred from and compared with. That order is journalled, and
    repeated when the run is (`fittest.evo.ordering`).

    Args:
        order: the order of milestones.
        parts: those of `Evolution`; the policy must know its cuts once the pool is scored.
    """

    def __init__(self, *, order: MilestoneOrder, **parts: Any) -> None:
        super().__init__(**parts)
        self._order = order
        self._stock: Stock | None = None
        self._families: dict[int, dict[int, Prompt]] = {}

    async def _offspring(self) -> str:
        if self.settings.generations and self._no_parents() and not self._enough():
            return "no_parents"
        self.state.generation, self.state.phase = min(1, self.settings.generations), "sampling"
        self.state.proposed = self.state.evaluated = 0
        reason = "generations"
        room = asyncio.Semaphore(WORKERS_PER_SLOT * self.feeder.backend.slots)
        async with asyncio.TaskGroup() as lives:
            for number in range(self.settings.generations * self.settings.offspring):
                fresh = not self._order.known(Milestone("born", number))
                if fresh:
                    await self._order.past_is_over()
                    await self.feeder.hungry()
                    await room.acquire()
                    if self._enough():
                        reason = "target_survivors"
                        break
                async with self._order.take(Milestone("born", number)):
                    self._stock = self._stock or self._freeze()
                    before, slot = divmod(number, self.settings.offspring)
                    draw = self._breeder.draw(before + 1, self._stock, slot)
                life = lives.create_task(self._live(number, draw))
                if fresh:
                    life.add_done_callback(lambda _: room.release())
                # its proposal shall be in the queue before the feeder is asked again whether it is hungry
                await asyncio.sleep(0)
        for generation in sorted(self._families):
            self._seal(generation)
        return reason

    async def _live(self, number: int, draw: Draw) -> None:
        """One offspring from birth to rejection."""
        prompt = await self._born(self._breeder.write(draw))
        accepted = await self._gatekeeper.pass_through(prompt, self._order.take(Milestone("gated", number)))
        self.state.proposed += 1
        if accepted and takes_individuals(self.toolbox.evaluate):
            await self._evaluate(prompt)
        elif accepted:
            self._map([prompt])
        async with self._order.take(Milestone("joined", number)):
            self._families.setdefault(draw.generation, {})[draw.slot] = prompt
            if accepted:
                self._set_diversity([prompt])
                self._join(draw.generation, [prompt], self._cuts(draw.generation, [prompt]))
                self._stock = None
            while len(self._families.get(len(self.state.finished), ())) == self.settings.offspring:
                self._seal(len(self.state.finished))

    def _seal(self, generation: int) -> None:
        """Finish a generation; diversity is measured in one pass, as in a run with barriers."""
        family = self._families.pop(generation)
        candidates = [family[slot] for slot in sorted(family)]
        accepted = [prompt for prompt in candidates if prompt.gate is None]
        self._set_diversity([*self.state.population, *accepted])
        self.state.generation = min(generation + 1, self.settings.generations)
        self.state.proposed -= len(candidates)
        self.state.evaluated -= len(accepted)
        self._finish(generation, candidates, self._cuts(generation, accepted))
