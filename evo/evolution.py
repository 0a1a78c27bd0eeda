"""The generational loop: propose, gate, sample, score, reject, join, trim; one generation after another."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from deap import tools

from fittest.evo.arms import Available
from fittest.evo.breeding import Breeder, Stock
from fittest.evo.errors import first_error
from fittest.evo.feeder import EndRun
from fittest.evo.gatekeeper import Gatekeeper
from fittest.evo.logbook import metric_values, selection_intensity, values_of
from fittest.evo.ordering import ReorderBuffer
from fittest.evo.pareto import ParetoFront
from fittest.evo.prompt import Prompt
from fittest.evo.records import RIP_METRICS, Birth, MetricName, Metrics, PoolPrompt, Thresholds
from fittest.evo.spending import Ledger, charged_to

if TYPE_CHECKING:
    from deap import base
    from numpy.typing import NDArray

    from fittest.evo.feeder import Feeder
    from fittest.evo.protocols import ThresholdPolicy
    from fittest.evo.records import Response

    Rejudge = Callable[[Prompt], Awaitable[tuple[list[Response], Metrics | None]]]

WORKERS_PER_SLOT = 8
"""Prompts worked on at once for each engine slot: enough that a slot never waits for a prompt, and that races, which
draw their rounds one after another, end together; few enough that a large population is not in memory as tasks."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What shapes a run; `population` 0 does not bound the parents, `target_survivors` 0 sets no goal.

    `pilot`: slots of the pool that are sampled fully, and fit the cuts, before the rest of the pool is raced.
    """

    generations: int
    offspring: int
    population: int = 0
    metrics: tuple[MetricName, ...] = RIP_METRICS
    offspring_metrics: tuple[MetricName, ...] = RIP_METRICS
    target_survivors: int = 0
    pilot: frozenset[int] = frozenset()

    def metrics_of(self, generation: int) -> tuple[MetricName, ...]:
        """The metrics that count in a generation."""
        return self.offspring_metrics if generation else self.metrics


@dataclass(frozen=True)
class Generation:
    """One finished generation: all its candidates in slot order, its cuts and its line of the logbook."""

    number: int
    candidates: Sequence[Prompt]
    thresholds: Thresholds
    record: dict[str, Any]


@dataclass
class State:
    """What a run has reached.

    `survivors`: all that ever passed rejection. `other_spending`: what was spent on no prompt, by the generation
    before which it was, and by what for. `notes`: what happened on the way that a reader of the tables should know.
    `phase`, `proposed` and `evaluated` (of this generation), `sampled_in_all` and `drawn_in_all` (prompts, and the
    responses drawn for them) are for whoever watches.
    """

    generation: int = 0
    phase: str = "starting"
    proposed: int = 0
    evaluated: int = 0
    sampled_in_all: int = 0
    drawn_in_all: int = 0
    population: list[Prompt] = field(default_factory=list)
    scored: list[Prompt] = field(default_factory=list)
    eliminated: list[Prompt] = field(default_factory=list)
    survivors: list[Prompt] = field(default_factory=list)
    other_spending: dict[tuple[int, str], Ledger] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    finished: list[Generation] = field(default_factory=list)
    stop_reason: str | None = None


class Evolution:
    """Evolves a pool of human prompts; a function of its parts, the pool, and the reply to each request.

    The toolbox speaks DEAP: `evaluate`, `mutate`, `mate`, `select` and `map` are looked up when they are needed, so
    each can be registered anew. `evaluate(individuals)` may be async and is then called for each prompt as soon as it
    passed the gates; a plain DEAP `evaluate(individual)` is mapped by `toolbox.map` when all are through.

    Args:
        pool: the human prompts.
        toolbox: a `deap.base.Toolbox` with evaluate, select, map, the operators, parse, stock, reject, diversity and
            vendi.
        feeder: the stream to the engine.
        gatekeeper: the gates and the archive behind them.
        breeder: makes offspring.
        policy: decides the cuts.
        settings: sizes and metrics.
        on_generation: called with each finished generation, before the next begins.

    Attributes:
        before_generation: awaited with the number of each generation of offspring before it begins; a generational
            run alone has such moments.
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
        on_generation: Callable[[Generation], None] | None = None,
    ) -> None:
        self.pool = pool
        self.toolbox = toolbox
        self.feeder = feeder
        self.settings = settings
        self.state = State()
        self.logbook = tools.Logbook()
        self.pareto_front = ParetoFront()
        self.statistics = tools.Statistics(key=lambda individual: individual.fitness.values)
        self.statistics.register("mean", np.mean, axis=0)
        self.on_generation = on_generation
        self.before_generation: Callable[[int], Awaitable[None]] | None = None
        self._gatekeeper = gatekeeper
        self._breeder = breeder
        self._policy = policy
        self._pool_values: NDArray[np.float64] | None = None

    async def run(self) -> State:
        """Run to the end; `state.stop_reason` says which end.

        Raises:
            FittestError: the engine, the disk or a user's part failed; the run can be resumed.
        """
        try:
            async with self.feeder:
                await self._generation(0, len(self.pool), self._human)
                self.state.stop_reason = await self._offspring()
        except BaseExceptionGroup as group:
            self.state.stop_reason = _end_reason(group)
        return self.state

    async def _offspring(self) -> str:
        """All generations after the pool; the reason why there are no more."""
        for number in range(1, self.settings.generations + 1):
            if self._enough():
                return "target_survivors"
            if self._no_parents():
                return "no_parents"
            if self.before_generation is not None:
                await self.before_generation(number)
            await self._generation(number, self.settings.offspring, partial(self._bred, number, self._freeze()))
        return "generations"

    async def _bred(self, number: int, stock: Stock, slot: int) -> Prompt:
        return await self._breeder.write(self._breeder.draw(number, stock, slot))

    def _enough(self) -> bool:
        """Whether as many prompts survived as were wanted."""
        return 0 < self.settings.target_survivors <= len(self.state.survivors)

    def _no_parents(self) -> bool:
        return len(self.state.scored) + len(self.state.eliminated) < 2

    def _freeze(self) -> Stock:
        """What is bred from now."""
        stock: Stock = self.toolbox.stock(Available(self.state.population, self.state.scored, self.state.eliminated))
        return stock

    async def _human(self, slot: int) -> Prompt:
        human = self.pool[slot]
        return Prompt(
            human.text, Birth(operator="pool", generation=0, slot=slot, source=human.source, licence=human.licence)
        )

    async def _generation(self, number: int, slots: int, birth: Callable[[int], Awaitable[Prompt]]) -> None:
        self.state.generation, self.state.phase = number, "sampling"
        self.state.proposed = self.state.evaluated = 0
        candidates = await self._breed(number, slots, birth)
        self.state.phase = "selecting"
        accepted = [prompt for prompt in candidates if prompt.gate is None]
        thresholds = self._cuts(number, accepted)
        self._set_diversity([*self.state.population, *accepted])
        self._join(number, accepted, thresholds)
        self._finish(number, candidates, thresholds)

    def _finish(self, number: int, candidates: Sequence[Prompt], thresholds: Thresholds) -> None:
        """Write a generation into the logbook, and hand it out."""
        record = self._record(number, candidates, thresholds)
        self.logbook.record(**record)
        generation = Generation(number, candidates, thresholds, record)
        self.state.finished.append(generation)
        if self.on_generation is not None:
            self.on_generation(generation)

    async def _breed(self, number: int, slots: int, birth: Callable[[int], Awaitable[Prompt]]) -> list[Prompt]:
        """Births, gates and evaluation of all slots, as many at a time as keep the engine full."""
        candidates: dict[int, Prompt] = {}
        reorder = ReorderBuffer()
        streamed = takes_individuals(self.toolbox.evaluate)
        pilot = self.settings.pilot if number == 0 and streamed else frozenset()

        async def work(slot: int) -> None:
            prompt = candidates[slot] = await self._born(birth(slot))
            accepted = await self._gatekeeper.pass_through(prompt, reorder.in_order(slot))
            self.state.proposed += 1
            if accepted and streamed and (not pilot or slot in pilot):
                await self._evaluate(prompt)

        await self._at_once(work, range(slots))
        ordered = [candidates[slot] for slot in range(slots)]
        accepted = [prompt for prompt in ordered if prompt.gate is None]
        if not streamed:
            self._map(accepted)
        if pilot:
            self._policy.fit(0, metric_values(accepted))
            await self._at_once(self._evaluate, [p for p in accepted if p.birth.slot not in pilot])
        return ordered

    def _map(self, prompts: Sequence[Prompt]) -> None:
        """Evaluate by a plain DEAP `evaluate(individual)`."""
        for prompt, values in zip(prompts, self.toolbox.map(self.toolbox.evaluate, prompts), strict=True):
            take_values(prompt, values)

    async def _at_once(self, work: Callable[[Any], Awaitable[None]], items: Iterable[Any]) -> None:
        """Work on items in their order, enough of them at a time to keep the engine full."""
        queue = iter(items)

        async def worker() -> None:
            for item in queue:
                await work(item)

        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS_PER_SLOT * self.feeder.backend.slots):
                workers.create_task(worker())

    async def _born(self, birth: Awaitable[Prompt]) -> Prompt:
        """A new prompt, charged with its own birth."""
        ledger = Ledger()
        with charged_to(ledger):
            prompt = await birth
        prompt.spent = ledger
        return prompt

    async def _evaluate(self, prompt: Prompt) -> None:
        with charged_to(prompt.spent):
            values = self.toolbox.evaluate([prompt])
            take_values(prompt, (await values if inspect.isawaitable(values) else values)[0])
        self.state.evaluated += 1
        self.state.sampled_in_all += prompt.n_drawn > 0
        self.state.drawn_in_all += prompt.n_drawn

    def _cuts(self, number: int, accepted: Sequence[Prompt]) -> Thresholds:
        """The cuts of a generation, fitted to it where they are not known beforehand."""
        return self._policy.known(number) or self._policy.fit(number, metric_values(accepted))

    def _join(self, number: int, accepted: Sequence[Prompt], thresholds: Thresholds) -> None:
        """Rejection; survivors join the population, which is trimmed."""
        state = self.state
        scored = [prompt for prompt in accepted if prompt.metrics is not None]
        names = self.settings.metrics_of(number)
        for prompt, failed in zip(scored, self.toolbox.reject(metric_values(scored), thresholds, names), strict=True):
            prompt.failed_metrics = failed
            prompt.survived = not failed
        state.eliminated += [prompt for prompt in accepted if prompt.eliminated]
        survivors = [prompt for prompt in scored if prompt.survived]
        state.scored += [prompt for prompt in scored if prompt.fitness.valid]
        state.survivors += survivors
        self.pareto_front.update(scored)
        joined = state.population + survivors
        trim = 0 < self.settings.population < len(joined)
        state.population = self.toolbox.select(joined, self.settings.population) if trim else joined

    async def rejudge(self, judge: Rejudge, *, survivors: bool) -> None:
        """Go on with another reward: the pool is judged anew, and the cuts are fitted to it.

        Prompts that failed, or lost a race, are not raised again, and what is in a table stays there.

        Args:
            judge: responses and metrics of one prompt by the other reward.
            survivors: judge the survivors anew as well; those that fail the new cuts stay survivors, but nothing is
                bred from them any more. Without, every prompt keeps the rewards it has.
        """
        pool = [prompt for prompt in self.state.finished[0].candidates if prompt.metrics is not None]
        current = [prompt for prompt in self.state.survivors if prompt.breeds] if survivors else []
        later = [prompt for prompt in current if prompt.birth.generation]
        judged: dict[Prompt, tuple[list[Response], Metrics | None]] = {}

        async def work(prompt: Prompt) -> None:
            with charged_to(prompt.spent):
                judged[prompt] = await judge(prompt)

        await self._at_once(work, [*pool, *later])
        self._pool_values = values_of(judged[prompt][1] for prompt in pool)
        self._policy.fit(0, self._pool_values)
        if not survivors:
            return
        for prompt, (responses, metrics) in judged.items():
            prompt.responses, prompt.metrics = responses, metrics
            if metrics is None:
                del prompt.fitness.values
        self._set_diversity([*pool, *later])
        for prompt in current:
            number = prompt.birth.generation
            values = metric_values([prompt])
            failed = self.toolbox.reject(values, self._cuts(number, [prompt]), self.settings.metrics_of(number))
            prompt.outdated = prompt.metrics is None or any(failed)
        self.state.population = [prompt for prompt in self.state.population if not prompt.outdated]

    def _set_diversity(self, prompts: Sequence[Prompt]) -> None:
        if not prompts:
            return
        archive = self._gatekeeper.archive
        diversity = self.toolbox.diversity(archive.embeddings, archive.rows(prompts))
        for prompt, value in zip(prompts, diversity.tolist(), strict=True):
            prompt.diversity = value if math.isfinite(value) else None
            if prompt.metrics is not None and prompt.diversity is not None:
                prompt.fitness.values = (*prompt.metrics.values[: len(RIP_METRICS)], prompt.diversity)

    def _record(self, number: int, candidates: Sequence[Prompt], thresholds: Thresholds) -> dict[str, Any]:
        scored = [prompt for prompt in candidates if prompt.metrics is not None]
        passed = [prompt for prompt in scored if prompt.survived]
        eliminated = sum(prompt.eliminated for prompt in candidates)
        evaluated = len(scored) + eliminated
        record: dict[str, Any] = {
            "generation": number,
            "tau_m1": thresholds.min_reward,
            "tau_m2": thresholds.min_length,
            "tau_m3": thresholds.max_gap,
            "evaluated": evaluated,
            "stopped": eliminated,
            "passed": len(passed),
            "pass_rate": len(passed) / evaluated if evaluated else None,
            "pass_rate_pool": self._pool_pass_rate(candidates if number == 0 else None, thresholds),
        }
        intensity = selection_intensity(*(metric_values(some)[:, : len(RIP_METRICS)] for some in (scored, passed)))
        record |= {f"selection_intensity_{name}": value for name, value in zip(RIP_METRICS, intensity, strict=True)}
        archive, population = self._gatekeeper.archive, self.state.population
        record["rollouts"] = sum(prompt.spent["rollout"].requests for prompt in candidates)
        record["tokens"] = sum(prompt.spent.total.tokens for prompt in candidates)
        record["diversity"] = self.toolbox.vendi(archive.embeddings[archive.rows(population)]) if population else None
        measured = [prompt for prompt in scored if prompt.fitness.valid]
        means = self.statistics.compile(measured)["mean"].tolist() if measured else [None] * 4
        record |= {f"mean_{name}": mean for name, mean in zip((*RIP_METRICS, "diversity"), means, strict=True)}
        return record

    def _pool_pass_rate(self, pool: Sequence[Prompt] | None, thresholds: Thresholds) -> float | None:
        """Share of the human prompts that pass these cuts by all of the pool's metrics.

        None without cuts (policy pareto), and where the pool was raced by other cuts: an eliminated prompt might pass
        these.
        """
        humans = self.state.finished[0].candidates if pool is None else pool
        values = metric_values(humans) if self._pool_values is None else self._pool_values
        eliminated = sum(prompt.eliminated for prompt in humans)
        other_cuts = pool is None and self.state.finished[0].thresholds != thresholds
        if not len(values) or thresholds.policy == "pareto" or (eliminated and other_cuts):
            return None
        failed = self.toolbox.reject(values, thresholds, self.settings.metrics)
        return sum(not names for names in failed) / (len(values) + eliminated)


def takes_individuals(evaluate: object) -> bool:
    """Whether an evaluate takes the whole batch, told by its first parameter: `individuals`."""
    return next(iter(inspect.signature(evaluate).parameters)) == "individuals"  # type: ignore[arg-type]


def take_values(prompt: Prompt, values: Sequence[float] | None) -> None:
    """Take over what an evaluate returned, unless it set the metrics itself."""
    if prompt.metrics is None and values is not None and np.isfinite(values[:3]).all():
        m1, m2, m3 = values[:3]
        prompt.metrics = Metrics(m1=m1, m2=int(m2), m3=m3, chosen=-1, rejected=-1, n=0)


def _end_reason(group: BaseExceptionGroup[BaseException]) -> str:
    """The reason of the one order to end in a group, or the group's first error raised on its own."""
    first = first_error(group)
    if isinstance(first, EndRun):
        return first.reason
    raise first from None
