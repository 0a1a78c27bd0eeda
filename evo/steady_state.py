"""Evolution without a barrier between generations: an offspring is bred whenever the engine has room for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fittest.evo.evolution import Evolution
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
        **parts: the parts of `Evolution`; the policy must know its cuts once the pool is scored.
    """

    def __init__(self, *, order: MilestoneOrder, **parts: Any) -> None:
        super().__init__(**parts)
        self._order = order
        self._stock: Stock | None = None
        self._families: dict[int, dict[int, Prompt]] = {}

    async def offspring(self) -> str:
        """Breeds all offspring in one stream, and returns the reason why there are no more."""
        generations = self.settings.generations
        if generations and self.survival.no_parents and not self.survival.enough:
            return "no_parents"
        self.state.begin(min(1, generations))
        reason = "generations"
        room = asyncio.Semaphore(self.prompts_at_once)
        async with asyncio.TaskGroup() as lives:
            for number in range(generations * self.settings.offspring):
                fresh = not self._order.known(Milestone("born", number))
                if fresh:
                    await self._order.past_is_over()
                    await self.feeder.hungry()
                    await room.acquire()
                    if self.survival.enough:
                        reason = "target_survivors"
                        break
                life = lives.create_task(self._live(number, await self._drawn(number)))
                if fresh:
                    life.add_done_callback(lambda _: room.release())
                # its proposal shall be in the queue before the feeder is asked again whether it is hungry
                await asyncio.sleep(0)
        for generation in sorted(self._families):
            self._seal(generation)
        return reason

    async def _drawn(self, number: int) -> Draw:
        """Draws what an offspring is bred from, when its place in the order has come."""
        async with self._order.take(Milestone("born", number)):
            self._stock = self._stock or self.survival.stock()
            before, slot = divmod(number, self.settings.offspring)
            if slot == 0:
                # others may be sealed before it is sampled, in an order that is nobody's but this one's
                self.survival.begin(before + 1)
            return self.breeder.draw(before + 1, self._stock, slot)

    async def _live(self, number: int, draw: Draw) -> None:
        """Takes one offspring from its birth to rejection."""
        prompt = await self.breeder.write(draw)
        accepted = await self.gatekeeper.pass_through(prompt, self._order.take(Milestone("gated", number)))
        self.state.proposed += 1
        if accepted and self.evaluation.streams:
            await self.evaluate(prompt)
        elif accepted:
            self.evaluation.map([prompt])
        # before it joins, since nothing else can happen to the run while it does
        if accepted and self.cells.asks and self._survives(draw.generation, prompt):
            await self.learn(prompt)
        async with self._order.take(Milestone("joined", number)):
            self._families.setdefault(draw.generation, {})[draw.slot] = prompt
            if accepted:
                self._join(draw.generation, prompt)
            while len(self._families.get(len(self.state.finished), ())) == self.settings.offspring:
                self._seal(len(self.state.finished))

    def _survives(self, generation: int, prompt: Prompt) -> bool:
        passes = self.survival.passes(prompt, self.survival.cuts(generation, [prompt]))
        return passes and all(draw.passed for draw in prompt.fresh)

    def _join(self, generation: int, prompt: Prompt) -> None:
        self.survival.measure_diversity([prompt])
        self.survival.join(generation, [prompt], self.survival.cuts(generation, [prompt]))
        self._stock = None

    def _seal(self, generation: int) -> None:
        """Finishes a generation; diversity is measured in one pass, as in a run with barriers."""
        family = self._families.pop(generation)
        candidates = [family[slot] for slot in sorted(family)]
        accepted = [prompt for prompt in candidates if prompt.gate is None]
        self.survival.measure_diversity([*self.state.population, *accepted])
        self.state.generation = min(generation + 1, self.settings.generations)
        # offspring of later generations are counted already, so the counts do not start from 0 as they do at a barrier
        self.state.proposed -= len(candidates)
        self.state.evaluated -= len(accepted)
        self.finish(generation, candidates, self.survival.cuts(generation, accepted))
