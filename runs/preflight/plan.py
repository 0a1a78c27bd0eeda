"""What a run will cost, predicted from a small probe of it, before anything else is spent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.evo.spending import Ledger, Prices, Spending, charged_to
from fittest.fitness.rewards.pairwise import PairwiseReward
from fittest.runs.config import Config, parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import assemble, parts_of
from fittest.runs.progress import watched

if TYPE_CHECKING:
    from fittest.evo.protocols import Ask, Gate
    from fittest.evo.records import Missing, Stage
    from fittest.fitness.judge.pair import Pair
    from fittest.fitness.rewards.pairwise import PairJudge
    from fittest.runs.progress import Progress

ANSWERS = 2
"""Answers drawn for each prompt of the probe; metrics need two."""

PROPOSALS = 6
MOST_PROMPTS = 32


@dataclass(frozen=True)
class Probe:
    """A small part of the run, done for real: what one request of each kind costs, and how many prompts pass.

    Attributes:
        spent: all that the probe itself cost.
        answer, reference, judgment, proposal, offspring_answer: of one request on average that is read on its own;
            tokens are not whole numbers. A reference is what a pairwise judge compares the answers to a prompt with.
        proposals: how many were probed.
        proposals_passed: how many of them got through the gates.
    """

    spent: Spending
    answer: Mean
    reference: Mean
    judgment: Mean
    proposal: Mean
    offspring_answer: Mean
    proposals: int
    proposals_passed: int

    @property
    def passed(self) -> float:
        """Share of proposals that got through the gates."""
        return self.proposals_passed / self.proposals if self.proposals else 0.0


@dataclass(frozen=True)
class Mean:
    """What one request costs on average."""

    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    completion_tokens: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, spent: Spending, *, longer: float = 1.0) -> Mean:
        """The average of some spending; prompts that are `longer` cost so many times the tokens to read."""
        count = spent.requests or 1
        prompt, cached = spent.prompt_tokens * longer, spent.cached_tokens * longer
        return cls(prompt / count, cached / count, spent.completion_tokens / count, spent.seconds / count)

    def reading(self, times: float) -> Mean:
        """The same with so many times the tokens to read."""
        return replace(self, prompt_tokens=self.prompt_tokens * times, cached_tokens=self.cached_tokens * times)

    def times(self, requests: float) -> Spending:
        """What so many requests cost."""
        prompt, cached = self.prompt_tokens * requests, self.cached_tokens * requests
        return Spending(
            round(requests),
            round(prompt),
            round(cached),
            round(self.completion_tokens * requests),
            self.seconds * requests,
        )


@dataclass(frozen=True)
class JudgeOnAccount:
    """A pairwise judge whose judgments are charged to a ledger of their own, apart from the references."""

    judge: PairJudge
    ledger: Ledger

    @property
    def fingerprint(self) -> str:
        """The judge's."""
        return self.judge.fingerprint

    async def chances(self, pairs: Sequence[Pair], ask: Ask) -> list[float | Missing]:
        """As the judge says."""
        with charged_to(self.ledger):
            return await self.judge.chances(pairs, ask)


@dataclass(frozen=True)
class Plan:
    """A prediction. Racing is not counted: what it saves depends on the rewards.

    Attributes:
        probe: what it is made from.
        lines: expected spending by what it is for.
        most: spending if every proposal passes the gates.
        slots: requests that the engine works on at once.
        prices: what it is paid at.
    """

    probe: Probe
    lines: dict[str, Spending]
    most: Spending
    slots: int
    prices: Prices

    @property
    def expected(self) -> Spending:
        """All lines together."""
        return sum(self.lines.values(), Spending())

    def seconds(self, spent: Spending) -> float:
        """Time of the engine with all its slots busy."""
        return spent.seconds / self.slots

    def cost(self, spent: Spending) -> float:
        """Money for tokens and for the time of the engine."""
        return self.prices.of_tokens(spent) + self.prices.of_time(self.seconds(spent))


def plan(config: Config, *, progress: Progress | None = None) -> Plan:
    """Probe the run that a configuration describes, and predict the rest.

    Raises:
        FittestError: something that a run would fail by, or the engine answered nothing.
    """
    parts = parts_of(config)
    texts = screened([prompt.text for prompt in parts.pool.prompts], parts.gates)
    probe = probed(config, texts, progress)
    sampling, operators = config.engine.sampling, config.operators
    judgments, together = judgments_of_answer(config), samples_per_read(config)
    drawn_at_once = config.selection.race_round if parts.selection.raced else sampling.n
    # without a pilot, cuts that are fitted to the pool are known only when all of it is sampled
    pool_raced = parts.selection.policy.known(0) is not None or parts.selection.settings.pilot
    answer = probe.answer.reading(1 / min(together, drawn_at_once if pool_raced else sampling.n))
    offspring_answer = probe.offspring_answer.reading(1 / min(together, drawn_at_once))
    judgment = probe.judgment.reading(1 / min(together, config.reward.repeats))
    proposals = config.run.generations * operators.offspring

    def lines(passed: float) -> dict[str, Spending]:
        answers, later = len(texts) * sampling.n, proposals * passed * sampling.n
        references = len(texts) + proposals * passed if config.reward.COMPARES else 0
        return {
            f"answers to {len(texts)} prompts of the pool": answer.times(answers),
            "proposals": probe.proposal.times(proposals),
            "answers to offspring": offspring_answer.times(later),
            "reference answers": probe.reference.times(references),
            "judgments of answers": judgment.times((answers + later) * judgments),
        }

    expected = {name: spent for name, spent in lines(probe.passed).items() if spent.requests}
    return Plan(
        probe, expected, sum(lines(1.0).values(), Spending()), slots=config.engine.slots, prices=config.prices.table
    )


def judgments_of_answer(config: Config) -> int:
    """How many judgments the engine is asked for each answer; a pairwise judge sees it in both orders."""
    return config.reward.judgments(config.judge)


def samples_per_read(config: Config) -> int:
    """How many samples of one prompt the engine draws at most for each time that it reads it."""
    return min(config.engine.samples_together, config.engine.slots)


def votes_by_engine(config: Config) -> bool:
    """Whether a pairwise judge is the run's own engine."""
    return config.reward.COMPARES and config.judge.model is None


def screened(texts: Sequence[str], gates: Sequence[Gate]) -> list[str]:
    """The human prompts that will pass the gates."""
    asked = [gate for gate in gates if gate.screens_pool]
    passed = []
    for slot, text in enumerate(texts):
        prompt = Prompt(text, Birth(operator="pool", generation=0, slot=slot))
        if all(gate.check(prompt) is None for gate in asked):
            passed.append(text)
            for gate in asked:
                gate.admit(prompt)
    if not passed:
        raise FittestError("no prompt of the pool passes the gates")
    return passed


def probed(config: Config, texts: Sequence[str], progress: Progress | None) -> Probe:
    """Run a small part of a configuration and measure it."""
    small = small_part(config)
    journal = SqliteJournal(":memory:")
    parts, comparing = parts_of(small), Ledger()
    if isinstance(parts.reward, PairwiseReward):
        parts.reward.judge = JudgeOnAccount(parts.reward.judge, comparing)
    evolution = assemble(small, parts, journal=journal)

    asyncio.run(watched(evolution, progress))
    journal.close()
    pool = list(evolution.state.finished[0].candidates)
    offspring = [prompt for generation in evolution.state.finished[1:] for prompt in generation.candidates]
    answered = [prompt for prompt in pool if prompt.n_drawn]
    answers = _spent(answered, "rollout")
    if not answers.completion_tokens:
        reasons = sorted({r.missing for prompt in answered for r in prompt.responses if r.missing is not None})
        raise FittestError(
            f"the probe of {len(pool)} prompts got no answer: {'; '.join(reasons) or 'gates let none in'}"
        )
    longer = mean(map(len, texts)) / mean(len(prompt.text) for prompt in answered)
    later = _spent(offspring, "rollout")
    together = min(ANSWERS, samples_per_read(small))
    judged = _spent([*pool, *offspring], "judge")
    return Probe(
        spent=evolution.feeder.traffic.total,
        answer=Mean.of(answers, longer=longer * together),
        # without a judge that asks the engine, a reference is taken to cost what an answer does
        reference=Mean.of(judged) if votes_by_engine(small) else Mean.of(answers, longer=together),
        judgment=Mean.of(comparing["judge"] if votes_by_engine(small) else judged),
        proposal=Mean.of(_spent(offspring, "proposal")),
        # when no proposal got through, offspring are taken to be answered as the pool is
        offspring_answer=Mean.of(later if later.requests else answers, longer=together),
        proposals=len(offspring),
        proposals_passed=sum(prompt.gate is None for prompt in offspring),
    )


def small_part(config: Config) -> Config:
    """The probe's configuration: a few prompts and proposals, with as many requests at once as the run will have.

    Cuts are left out, so that nobody is missing as a parent, and rewards that do not ask the engine.
    """
    tables = config.toml_tables()
    prompts = max(config.operators.shots, math.ceil(config.engine.slots / ANSWERS))
    tables["run"] |= {"generations": min(1, config.run.generations), "mode": "generational", "arm": "evolution"}
    tables["pool"]["limit"] = min(prompts, MOST_PROMPTS, config.pool.limit or MOST_PROMPTS)
    tables["engine"]["sampling"]["n"] = ANSWERS
    if judgments_of_answer(config):
        tables["reward"] |= {"votes": 1}
    else:
        tables["reward"] = {"kind": "null"}
        tables.pop("judge", None)
    tables["selection"] = {"quantile": 0.0, "race_round": 0}
    tables["operators"]["offspring"] = min(PROPOSALS, config.operators.offspring)
    tables["budget"] = {}
    return parse_config(tables)


def _spent(prompts: Sequence[Prompt], stage: Stage) -> Spending:
    return sum((prompt.spent[stage] for prompt in prompts), Spending())
