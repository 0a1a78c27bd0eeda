"""Survival: who passes rejection, who is kept as a parent, and what is bred from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fittest.evo.logbook import ScoredPool, metric_values, values_of
from fittest.evo.pareto import ParetoFront
from fittest.evo.protocols import LearnsFromSurvivors
from fittest.evo.records import RIP_METRICS, MetricName, Metrics, Response

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.archive import Archive
    from fittest.evo.breeding import Stock
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import ThresholdPolicy
    from fittest.evo.records import Thresholds
    from fittest.evo.state import Settings, State

Judgment = tuple[list[Response], Metrics | None]
"""The responses of a prompt with the rewards of another judge, and the metrics that follow from them."""


class Survival:
    """Decides who survives, and changes the population accordingly.

    Args:
        toolbox: `reject`, `select`, `stock`, `diversity`, `vendi` and `breadth` are looked up in it when they are
            needed.
        archive: holds the embeddings of all prompts that passed the gates.
        policy: decides the cuts.
        settings: the size of the population, and the metrics that count.
        state: what a run has reached, which is changed here.
    """

    def __init__(
        self, *, toolbox: base.Toolbox, archive: Archive, policy: ThresholdPolicy, settings: Settings, state: State
    ) -> None:
        self._front = ParetoFront()
        self._not_ranked: list[Prompt] = []
        self._toolbox = toolbox
        self._archive = archive
        self._policy = policy
        self._settings = settings
        self._state = state
        self._pool: ScoredPool | None = None
        self._passing: tuple[ScoredPool, Thresholds, float | None] | None = None

    @property
    def enough(self) -> bool:
        """Tells whether as many prompts have survived as were wanted."""
        return 0 < self._settings.target_survivors <= len(self._state.survivors)

    @property
    def no_parents(self) -> bool:
        """Tells whether there are fewer than two prompts that anything is known of, so that nothing can be bred."""
        return len(self._state.scored) + len(self._state.eliminated) < 2

    @property
    def pareto_front(self) -> ParetoFront:
        """Returns the non-dominated prompts so far."""
        self._rank()
        return self._front

    def _rank(self) -> None:
        """Ranks those that have joined; one sort for all of them costs no more than for one.

        It is not put off beyond a change of any fitness, since whom they dominate depends on what they had when they
        joined.
        """
        if self._not_ranked:
            self._front.update(self._not_ranked)
            self._not_ranked = []

    def stock(self) -> Stock:
        """Returns what is bred from now."""
        stock: Stock = self._toolbox.stock(self._state)
        return stock

    def known_cuts(self, number: int) -> Thresholds | None:
        """Returns the cuts of a generation if they are known before it is sampled."""
        return self._policy.known(number)

    def cuts(self, number: int, accepted: Sequence[Prompt]) -> Thresholds:
        """Returns the cuts of a generation, which are fitted to it unless they are known beforehand.

        Args:
            number: of the generation.
            accepted: its candidates that passed the gates.
        """
        return self.known_cuts(number) or self._policy.fit(number, metric_values(accepted))

    def begin(self, number: int) -> None:
        """Settles the cuts of a generation by what is sealed now, if they are known before it is sampled."""
        self._policy.known(number)

    def learn(self, candidates: Sequence[Prompt]) -> None:
        """Lets the policy see who survived of a generation that is sealed."""
        if isinstance(self._policy, LearnsFromSurvivors):
            survivors = metric_values(prompt for prompt in candidates if prompt.survived)
            evaluated = sum(prompt.metrics is not None or prompt.eliminated for prompt in candidates)
            self._policy.learn(survivors, evaluated)

    def measure_diversity(self, prompts: Sequence[Prompt]) -> None:
        """Measures prompts against all that passed the gates so far; those with metrics then have a fitness."""
        if not prompts:
            return
        if any(prompt.fitness.valid for prompt in prompts):
            self._rank()
            self._state.failed.measured_again(prompts)
        diversity = self._toolbox.diversity(self._archive.embeddings, self._archive.rows(prompts))
        for prompt, value in zip(prompts, diversity.tolist(), strict=True):
            prompt.diversity = value if math.isfinite(value) else None
            # DEAP takes NaN for a valid value, so a fitness is set only when all of it is known
            if prompt.metrics is not None and prompt.diversity is not None:
                prompt.fitness.values = (*prompt.metrics.values[: len(RIP_METRICS)], prompt.diversity)

    def join(self, number: int, accepted: Sequence[Prompt], thresholds: Thresholds) -> None:
        """Rejects prompts; the survivors join the population, which is trimmed.

        Args:
            number: of their generation.
            accepted: prompts that passed the gates and were evaluated.
            thresholds: the cuts of the generation.
        """
        state = self._state
        if number == 0:
            self._pool = ScoredPool.of(accepted, thresholds)
        scored = [prompt for prompt in accepted if prompt.metrics is not None]
        failures = self.failures(number, (prompt.metrics for prompt in scored), thresholds)
        for prompt, failed in zip(scored, failures, strict=True):
            _take_verdict(prompt, failed)
        survivors = [prompt for prompt in scored if prompt.survived]
        state.eliminated += [prompt for prompt in accepted if prompt.eliminated]
        measured = [prompt for prompt in scored if prompt.fitness.valid]
        state.scored += measured
        state.survivors += survivors
        self._not_ranked += measured
        self._trim(survivors)

    def _trim(self, survivors: Sequence[Prompt]) -> None:
        """Adds prompts to the population, of which the best stay if they are too many."""
        size, state = self._settings.population, self._state
        state.population += survivors
        if 0 < size < len(state.population):
            # another list, by which others see that it has not just grown
            state.population = list(self._toolbox.select(state.population, size))

    def passes(self, prompt: Prompt, thresholds: Thresholds) -> bool:
        """Tells whether the first draw of a prompt passes the cuts of its generation."""
        if prompt.metrics is None:
            return False
        (failed,) = self.failures(prompt.birth.generation, [prompt.metrics], thresholds)
        return not failed

    def failures(
        self, number: int, metrics: Iterable[Metrics | None], thresholds: Thresholds
    ) -> Sequence[tuple[MetricName, ...]]:
        """Returns by which metrics each draw fails, of the draws that have metrics.

        Args:
            number: of the generation.
            metrics: those of each draw.
            thresholds: the cuts of the generation.
        """
        failures: Sequence[tuple[MetricName, ...]] = self._toolbox.reject(
            values_of(metrics), thresholds, self._settings.metrics_of(number)
        )
        return failures

    def pass_rate_of_pool(self, thresholds: Thresholds) -> float | None:
        """Returns the share of the human prompts that pass these cuts; None if that is not known."""
        pool = self._pool
        assert pool is not None  # the pool joins before any generation is finished
        # cuts that stay the same need no other look at a large pool
        if self._passing is None or self._passing[0] is not pool or self._passing[1] != thresholds:
            rate = pool.pass_rate(thresholds, self._toolbox.reject, self._settings.metrics)
            self._passing = (pool, thresholds, rate)
        return self._passing[2]

    def diversity_of_population(self) -> float | None:
        """Returns how many different prompts the population is worth; None of an empty one."""
        population = self._state.population
        if not population:
            return None
        diversity: float = self._toolbox.vendi(self._archive.embeddings[self._archive.rows(population)])
        return diversity

    def breadth_of_population(self, number: int) -> dict[str, float | None]:
        """Returns the Vendi score of the population at the size that all generations are compared at.

        Args:
            number: the generation that has just joined.
        """
        # sorted, since who is in a subsample shall not depend on who came first
        population = sorted(self._state.population, key=lambda prompt: prompt.id)
        found = self._toolbox.breadth(number, self._archive.embeddings[self._archive.rows(population)])
        mean, sd, size = (None, None, None) if found is None else found
        return {"vendi_equal": mean, "vendi_equal_sd": sd, "vendi_equal_size": size}

    def refit(self, metrics: Iterable[Metrics | None]) -> None:
        """Fits the cuts to the pool as another judge sees it."""
        assert self._pool is not None  # nobody is judged anew before the pool was judged
        self._pool = replace(self._pool, values=values_of(metrics))
        self._policy.fit(0, self._pool.values)

    def replace(
        self,
        judgments: Mapping[Prompt, Judgment],
        fresh: Mapping[Prompt, Sequence[Judgment]],
        survivors: Sequence[Prompt],
    ) -> None:
        """Gives prompts the rewards of another judge; a survivor that fails its cuts is no parent any more.

        Args:
            judgments: of human prompts and of survivors.
            fresh: of the fresh draws of the survivors.
            survivors: those that are bred from.
        """
        self._rank()
        for prompt, (responses, metrics) in judgments.items():
            prompt.responses, prompt.metrics = responses, metrics
            if metrics is None:
                del prompt.fitness.values
        self.measure_diversity(list(judgments))
        for prompt in survivors:
            for draw, (responses, metrics) in zip(prompt.fresh, fresh[prompt], strict=True):
                draw.responses, draw.metrics = responses, metrics
            number = prompt.birth.generation
            metrics_of_all = [prompt.metrics, *(draw.metrics for draw in prompt.fresh)]
            failed = self.failures(number, metrics_of_all, self.cuts(number, [prompt]))
            prompt.outdated = None in metrics_of_all or any(failed)
        self._state.population = [prompt for prompt in self._state.population if not prompt.outdated]
        self._state.look_again()


def _take_verdict(prompt: Prompt, failed: tuple[MetricName, ...]) -> None:
    """Decides whether a prompt survives, by the metrics that its first draw fails by and by its fresh draws."""
    lost = [draw for draw in prompt.fresh if not draw.passed]
    prompt.survived = not failed and not lost
    prompt.failed_metrics = lost[0].failed if lost else failed
    prompt.draws_passed = 0 if failed else 1 + len(prompt.fresh) - len(lost)
