"""The generational loop: propose, gate, sample, score, reject, join, trim; one generation after another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from deap import tools

from fittest.evo.cells import Cells
from fittest.evo.confirmation import Confirmation
from fittest.evo.errors import first_error
from fittest.evo.evaluation import Evaluation
from fittest.evo.feeder import EndRun
from fittest.evo.logbook import fitness_statistics, generation_record
from fittest.evo.ordering import ReorderBuffer, at_once
from fittest.evo.prompt import Prompt
from fittest.evo.protocols import TellsOfServers
from fittest.evo.records import Birth
from fittest.evo.retest import RETEST, Retested, chosen_again
from fittest.evo.spending import Ledger, charged_to
from fittest.evo.state import Generation, Settings, State
from fittest.evo.survival import Judgment, Survival

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.breeding import Breeder, Stock
    from fittest.evo.confirmation import OnDrawn
    from fittest.evo.feeder import Feeder
    from fittest.evo.gatekeeper import Gatekeeper
    from fittest.evo.pareto import ParetoFront
    from fittest.evo.protocols import CanBeTried, ThresholdPolicy
    from fittest.evo.records import PoolPrompt, Thresholds
    from fittest.evo.retest import OnRetested

    BeforeGeneration = Callable[["Evolution", int], Awaitable[None]]
    OnEvaluated = Callable[[Prompt], None]
    OnGeneration = Callable[["Evolution", Generation], None]
    Rejudge = Callable[[Prompt], Awaitable[Judgment]]

WORKERS_PER_SLOT = 8
"""Prompts worked on at once for each engine slot: enough that a slot never waits for a prompt, and that races, which
draw their rounds one after another, end together; few enough that a large population is not in memory as tasks."""


class Evolution:
    """Evolves a pool of human prompts; a function of its parts, the pool, and the reply to each request.

    The toolbox speaks DEAP: `evaluate`, `mutate`, `mate`, `select` and `map` are looked up when they are needed, so
    each can be registered anew. `evaluate(individuals)` may be async and is then called for each prompt as soon as it
    has passed the gates; a plain DEAP `evaluate(individual)` is mapped by `toolbox.map` when all have passed.
    `select` trims the parents to `settings.population`; who survives is decided by `reject` before that.

    Args:
        pool: the human prompts.
        toolbox: a `deap.base.Toolbox` with evaluate, select, map, the operators, parse, stock, reject, diversity,
            vendi and breadth.
        feeder: the stream to the engine.
        gatekeeper: the gates and the archive behind them.
        breeder: makes offspring.
        policy: decides the cuts.
        settings: sizes and metrics.
        before_generation: awaited with the evolution and the number of each generation of offspring before it begins;
            a steady-state run has no such moments.
        on_evaluated: called with each prompt that has been evaluated; it may put the responses away.
        on_drawn: called likewise with each prompt and each fresh draw of it.
        on_retested: called likewise with each survivor that is drawn again at the end.
        on_generation: called with the evolution and each finished generation, before the next begins.
        notes: what a reader of the tables should know from the start.
        servers: what is asked over a network; a person who watches the run is shown their trouble.
        cells: counts survivors by where they lie.

    Attributes:
        state: what the run has reached.
        logbook: DEAP's, with a line for each finished generation.
        statistics: DEAP's, over the fitness values of a generation.
        gatekeeper, breeder, evaluation, confirmation, survival: what happens to a prompt, in this order. Every form of
            the loop is made of these.
    """

    def __init__(
        self,
        *,
        pool: Sequence[PoolPrompt],
        toolbox: base.Toolbox,
        feeder: Feeder,
        gatekeeper: Gatekeeper,
        breeder: Breeder,
        policy: ThresholdPolicy,
        settings: Settings,
        before_generation: BeforeGeneration | None = None,
        on_evaluated: OnEvaluated | None = None,
        on_drawn: OnDrawn | None = None,
        on_retested: OnRetested | None = None,
        on_generation: OnGeneration | None = None,
        notes: Iterable[str] = (),
        servers: Iterable[CanBeTried] = (),
        cells: Cells | None = None,
    ) -> None:
        self.pool = pool
        self.toolbox = toolbox
        self.feeder = feeder
        self.settings = settings
        self.servers = list(servers)
        self.state = State(notes=list(notes))
        self.logbook = tools.Logbook()
        self.statistics = fitness_statistics()
        self.gatekeeper = gatekeeper
        self.breeder = breeder
        self.evaluation = Evaluation(toolbox, self.state, on_evaluated)
        self.survival = Survival(
            toolbox=toolbox, archive=gatekeeper.archive, policy=policy, settings=settings, state=self.state
        )
        self.confirmation = Confirmation(
            settings.confirm, toolbox=toolbox, survival=self.survival, state=self.state, on_drawn=on_drawn
        )
        self.cells = cells or Cells([])
        self._before_generation = before_generation
        self._on_retested = on_retested
        self._on_generation = on_generation

    @property
    def pareto_front(self) -> ParetoFront:
        """Returns the non-dominated prompts so far; they are for looking at, and nothing is bred from them as such."""
        return self.survival.pareto_front

    @property
    def notes_of_servers(self) -> list[str]:
        """Returns what a user should know of the servers that were asked."""
        return [note for server in self.servers if isinstance(server, TellsOfServers) for note in server.notes]

    @property
    def prompts_at_once(self) -> int:
        """Returns how many prompts are worked on at once, which keeps the engine full."""
        return WORKERS_PER_SLOT * self.feeder.most_slots

    async def run(self) -> State:
        """Runs to the end.

        Returns:
            The last state; its `stop_reason` says which end that was.

        Raises:
            FittestError: the engine, the disk or a user's part failed; the run can be resumed.
        """
        try:
            async with self.feeder:
                await self._generation(0, len(self.pool), self._human)
                reason = await self.offspring()
                await self._retest()
                self.state.stop_reason = reason
        except BaseExceptionGroup as group:
            self.state.stop_reason = _end_reason(group)
            if self.state.unconfirmed:
                self.state.notes.append(
                    f"the run ended ({self.state.stop_reason}) before {len(self.state.unconfirmed)} prompts that had"
                    " passed their first draw were confirmed; they are no survivors"
                )
        return self.state

    async def offspring(self) -> str:
        """Evolves all generations after the pool, and returns the reason why there are no more."""
        for number in range(1, self.settings.generations + 1):
            if self.survival.enough:
                return "target_survivors"
            if self.survival.no_parents:
                return "no_parents"
            if self._before_generation is not None:
                await self._before_generation(self, number)
            bred = partial(self._bred, number, self.survival.stock())
            await self._generation(number, self.settings.offspring, bred)
        return "generations"

    async def _generation(self, number: int, slots: int, birth: Callable[[int], Awaitable[Prompt]]) -> None:
        self.state.begin(number)
        candidates = await self._breed(number, slots, birth)
        accepted = [prompt for prompt in candidates if prompt.gate is None]
        thresholds = self.survival.cuts(number, accepted)
        # those whose cuts were known beforehand have been confirmed already
        await self._confirm(accepted, thresholds)
        self.state.phase = "selecting"
        self.survival.measure_diversity([*self.state.population, *accepted])
        self.survival.join(number, accepted, thresholds)
        if self.cells.asks:
            self.state.phase = "labelling"
            survivors = [prompt for prompt in accepted if prompt.survived]
            await at_once(self.learn, survivors, at_most=self.prompts_at_once)
        self.finish(number, candidates, thresholds)

    async def learn(self, prompt: Prompt) -> None:
        """Asks for what has to be known of a survivor before it can be placed in a cell; it is charged with that."""
        with charged_to(prompt.spent):
            await self.cells.learn(prompt)

    async def _breed(self, number: int, slots: int, birth: Callable[[int], Awaitable[Prompt]]) -> list[Prompt]:
        """Takes all slots through birth, gates and evaluation, as many at a time as keep the engine full."""
        candidates: dict[int, Prompt] = {}
        reorder = ReorderBuffer()
        streams = self.evaluation.streams
        pilot = self.settings.pilot if number == 0 and streams else frozenset()

        async def live(slot: int) -> None:
            prompt = candidates[slot] = await birth(slot)
            accepted = await self.gatekeeper.pass_through(prompt, reorder.in_order(slot))
            self.state.proposed += 1
            if accepted and streams and (not pilot or slot in pilot):
                await self.evaluate(prompt)

        await at_once(live, range(slots), at_most=self.prompts_at_once)
        ordered = [candidates[slot] for slot in range(slots)]
        accepted = [prompt for prompt in ordered if prompt.gate is None]
        if not streams:
            self.evaluation.map(accepted)
        if pilot:
            # the rest of the pool is raced against these cuts, which are therefore known before it is sampled
            self.survival.cuts(0, accepted)
            rest = [prompt for prompt in accepted if prompt.birth.slot not in pilot]
            await at_once(self.evaluate, rest, at_most=self.prompts_at_once)
        return ordered

    async def evaluate(self, prompt: Prompt) -> None:
        """Evaluates a prompt, and confirms it at once if its cuts are known, which keeps the engine full."""
        await self.evaluation.evaluate(prompt)
        known = self.survival.known_cuts(prompt.birth.generation)
        if known is not None and self.confirmation.wanted(prompt, known):
            await self.confirmation.confirm([prompt], known)

    async def _confirm(self, accepted: Sequence[Prompt], thresholds: Thresholds) -> None:
        """Confirms the prompts of a generation that have passed once, now that its cuts are fitted."""
        passed = [prompt for prompt in accepted if self.confirmation.wanted(prompt, thresholds)]
        if passed:
            self.state.phase = "confirming"
            await self.confirmation.confirm(passed, thresholds, at_most=self.prompts_at_once)

    async def _human(self, slot: int) -> Prompt:
        human = self.pool[slot]
        return Prompt(
            human.text, Birth(operator="pool", generation=0, slot=slot, source=human.source, licence=human.licence)
        )

    async def _bred(self, number: int, stock: Stock, slot: int) -> Prompt:
        return await self.breeder.write(self.breeder.draw(number, stock, slot))

    def finish(self, number: int, candidates: Sequence[Prompt], thresholds: Thresholds) -> None:
        """Writes a generation into the logbook, and hands it to `on_generation`.

        Args:
            number: of the generation.
            candidates: all of them, in slot order.
            thresholds: its cuts.
        """
        record: dict[str, Any] = {
            **generation_record(
                number,
                candidates,
                thresholds,
                statistics=self.statistics,
                race_audit=self.settings.race_audit,
            ),
            "pass_rate_pool": self.survival.pass_rate_of_pool(thresholds),
            "diversity": self.survival.diversity_of_population(),
            **self.survival.breadth_of_population(number),
        }
        self.survival.learn(candidates)
        self.breeder.shares.learn(candidates)
        generation = Generation(number, candidates, thresholds, record)
        self.state.finished.append(generation)
        # what a prompt is worth is known by what has been finished
        record |= self.cells.figures(self.state) | self.breeder.shares.figures
        self.logbook.record(**record)
        self.feeder.settle()
        if self._on_generation is not None:
            self._on_generation(self, generation)

    async def _retest(self) -> None:
        """Draws some survivors once more, in full and against the cuts of their generations; this decides nothing."""
        settings, state = self.settings, self.state
        if not settings.retest:
            return
        state.phase = "drawing survivors again"
        breeding = [prompt for prompt in state.survivors if prompt.breeds]
        chosen = chosen_again(breeding, share=settings.retest, seed=settings.seed)
        drawn: dict[int, Retested] = {}

        async def work(numbered: tuple[int, Prompt]) -> None:
            place, prompt = numbered
            number = prompt.birth.generation
            cuts = self.survival.known_cuts(number) or state.finished[number].thresholds
            drawn[place] = Retested(prompt, await self.confirmation.draw_in_full(prompt, cuts), place)
            if self._on_retested is not None:
                self._on_retested(drawn[place])

        with charged_to(state.other_spending.setdefault((len(state.finished), RETEST), Ledger())):
            await at_once(work, enumerate(chosen), at_most=self.prompts_at_once)
        state.retested = [drawn[place] for place in range(len(chosen))]
        self.feeder.settle()

    async def rejudge(self, judge: Rejudge, *, survivors: bool) -> None:
        """Goes on with another reward: the pool is judged anew, and the cuts are fitted to it.

        Prompts that failed, or lost a race, are not raised again, and what is in a table stays there.

        Args:
            judge: gives the responses and metrics of one prompt by the other reward.
            survivors: judge the survivors anew as well, with their fresh draws; those that fail the new cuts by any
                draw stay survivors, but nothing is bred from them any more. Without, every prompt keeps the rewards
                it has.
        """
        pool = [prompt for prompt in self.state.finished[0].candidates if prompt.metrics is not None]
        current = [prompt for prompt in self.state.survivors if prompt.breeds] if survivors else []
        later = [prompt for prompt in current if prompt.birth.generation]
        breeding = frozenset(current)
        judged: dict[Prompt, Judgment] = {}
        fresh: dict[Prompt, list[Judgment]] = {}

        async def work(prompt: Prompt) -> None:
            with charged_to(prompt.spent):
                judged[prompt] = await judge(prompt)
                if prompt in breeding:
                    fresh[prompt] = [await judge(prompt.as_in(draw)) for draw in prompt.fresh]

        await at_once(work, [*pool, *later], at_most=self.prompts_at_once)
        self.survival.refit(judged[prompt][1] for prompt in pool)
        if survivors:
            self.survival.replace({prompt: judged[prompt] for prompt in [*pool, *later]}, fresh, current)


def _end_reason(group: BaseExceptionGroup[BaseException]) -> str:
    """Returns the reason of the one order to end in a group, or raises the group's first error on its own."""
    first = first_error(group)
    if isinstance(first, EndRun):
        return first.reason
    raise first from None
