"""Predicts what a run will cost from a small probe of it, before anything else is spent."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, get_args

from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Role
from fittest.evo.spending import Ledger, PriceList, Spending
from fittest.runs.config import Config, parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import assemble, parts_of
from fittest.runs.preflight.roles import readiness
from fittest.runs.progress import watched

if TYPE_CHECKING:
    from fittest.evo.protocols import Gate
    from fittest.evo.records import Stage
    from fittest.runs.config.engine import EngineSection
    from fittest.runs.config.reward import RewardSection
    from fittest.runs.progress import Progress

ANSWERS = 2
"""How many answers the probe draws for each prompt; metrics need two."""

_PROPOSALS = 6
_MOST_PROMPTS = 32


@dataclass(frozen=True)
class _Probe:
    """Holds the measurements of a small part of the run that was really done.

    Attributes:
        spent: everything that the probe itself cost.
        answer, reference, judgment, audit, proposal, offspring_answer: the average cost of one such request if it
            shares the reading of its prompt with no other. A reference is the answer that a pairwise judge compares
            the answers to a prompt with; an audit is a judgment that decides nothing.
        proposals: how many proposals were made.
        proposals_passed: how many of them passed the gates.
        answers: how many answers were asked for.
        failures: how many of them are missing, by the reason.
    """

    spent: Ledger
    answer: _Mean
    reference: _Mean
    judgment: _Mean
    audit: _Mean
    proposal: _Mean
    offspring_answer: _Mean
    proposals: int
    proposals_passed: int
    answers: int
    failures: Mapping[str, int]

    @property
    def passed(self) -> float:
        """Returns the share of proposals that passed the gates."""
        return self.proposals_passed / self.proposals if self.proposals else 0.0


@dataclass(frozen=True)
class _Mean:
    """Holds what one request costs on average; these tokens are not whole numbers."""

    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    completion_tokens: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, spent: Spending, *, longer: float = 1.0) -> _Mean:
        """Returns the average of some spending, with the tokens to read multiplied by `longer`."""
        count = spent.requests or 1
        prompt, cached = spent.prompt_tokens * longer, spent.cached_tokens * longer
        return cls(prompt / count, cached / count, spent.completion_tokens / count, spent.seconds / count)

    def reading(self, times: float) -> _Mean:
        """Returns the same with the tokens to read multiplied by `times`."""
        return replace(self, prompt_tokens=self.prompt_tokens * times, cached_tokens=self.cached_tokens * times)

    def times(self, requests: float) -> Spending:
        """Returns what this number of requests costs."""
        prompt, cached = self.prompt_tokens * requests, self.cached_tokens * requests
        return Spending(
            round(requests),
            round(prompt),
            round(cached),
            round(self.completion_tokens * requests),
            self.seconds * requests,
        )


@dataclass(frozen=True)
class Plan:
    """Holds a prediction. It counts neither what racing saves nor fresh draws, which depend on the rewards.

    Attributes:
        probe: the measurements behind the prediction.
        lines: the expected spending, by its purpose; each line is of one stage.
        most: the spending if every proposal passes the gates.
        engines: the section of each engine by the role that it is configured for.
        prices: the prices of tokens and of engine time.
    """

    probe: _Probe
    lines: dict[str, Ledger]
    most: Ledger
    engines: Mapping[Role, EngineSection]
    prices: PriceList

    @property
    def expected(self) -> Ledger:
        """Returns the sum of all lines."""
        return sum(self.lines.values(), Ledger())

    def seconds(self, spent: Ledger) -> float:
        """Returns the seconds that the slowest engine needs if all its slots are always busy."""
        return max(self._seconds_of(spent).values())

    def cost(self, spent: Ledger) -> float:
        """Returns the price of the tokens and of the engines' time."""
        times = (self.prices.of(role).of_time(seconds) for role, seconds in self._seconds_of(spent).items())
        return self.prices.of_tokens(spent) + sum(times)

    def _seconds_of(self, spent: Ledger) -> dict[Role, float]:
        """Returns the seconds of each engine; it serves the roles that have no engine of their own as well."""
        slot_seconds: dict[Role, float] = dict.fromkeys(self.engines, 0.0)
        for role in get_args(Role):
            slot_seconds[role if role in self.engines else "policy"] += spent.of_role(role).seconds
        return {role: seconds / self.engines[role].slots for role, seconds in slot_seconds.items()}


def plan(config: Config, *, progress: Progress | None = None) -> Plan:
    """Probes the run that a configuration describes, and predict the rest.

    Args:
        config: the configuration of the run.
        progress: shows how far the probe is; None shows nothing.

    Raises:
        FittestError: the run would fail too, or the engine gave no answer.
    """
    parts = parts_of(config)
    texts = _screened([prompt.text for prompt in parts.pool.prompts], parts.gates)
    probe = _probed(config, texts, progress)
    sampling, operators = config.engine.sampling, config.operators
    together = _samples_per_read(config.engine)
    drawn_at_once = config.selection.race_round if parts.selection.raced else sampling.n
    # without a pilot, cuts that are fitted to the pool are known only when all of it is sampled
    pool_raced = parts.selection.policy.known(0) is not None or parts.selection.settings.pilot
    answer = probe.answer.reading(1 / min(together, drawn_at_once if pool_raced else sampling.n))
    offspring_answer = probe.offspring_answer.reading(1 / min(together, drawn_at_once))
    judgment = _voting(config, config.reward, "judge", probe.judgment)
    audit = _voting(config, config.audit, "auditor", probe.audit)
    proposals = config.run.generations * operators.offspring

    def lines(passed: float) -> dict[str, Ledger]:
        answers, later = len(texts) * sampling.n, proposals * passed * sampling.n
        compares = any(section.COMPARES for section in config.rewards.values())
        references = len(texts) + proposals * passed if compares else 0
        return {
            f"answers to {len(texts)} prompts of the pool": _ledger("rollout", answer.times(answers)),
            "proposals": _ledger("proposal", probe.proposal.times(proposals)),
            "answers to offspring": _ledger("rollout", offspring_answer.times(later)),
            "reference answers": _ledger("reference", probe.reference.times(references)),
            "judgments of answers": _ledger("judge", judgment(answers + later)),
            "audits of answers": _ledger("audit", audit(answers + later)),
        }

    expected = {name: spent for name, spent in lines(probe.passed).items() if spent.total.requests}
    most = sum(lines(1.0).values(), Ledger())
    return Plan(probe, expected, most, engines=config.engines, prices=config.price_list)


def _ledger(stage: Stage, spent: Spending) -> Ledger:
    ledger = Ledger()
    ledger.add(stage, spent)
    return ledger


def _voting(config: Config, reward: RewardSection | None, role: Role, vote: _Mean) -> Callable[[float], Spending]:
    """Returns what it costs that a reward asks for its judgments of so many answers; nothing if it asks for none.

    Args:
        config: the configuration of the run.
        reward: the section of the reward, if there is one.
        role: that of the engine that it asks.
        vote: the cost of one judgment.
    """
    if reward is None:
        return lambda answers: Spending()
    judgments, together = reward.judgments(config.judge), _samples_per_read(config.engine_of(role))
    each = vote.reading(1 / min(together, reward.repeats))
    return lambda answers: each.times(answers * judgments)


def _samples_per_read(engine: EngineSection) -> int:
    """Returns how many samples of one prompt an engine draws at most each time it reads the prompt."""
    return min(engine.samples_together, engine.slots)


def _screened(texts: Sequence[str], gates: Sequence[Gate]) -> list[str]:
    """Returns the human prompts that will pass the gates."""
    asked = [gate for gate in gates if gate.screens_pool]
    passed = []
    for slot, text in enumerate(texts):
        prompt = Prompt(text, Birth(operator="pool", generation=0, slot=slot))
        if all(gate.check(prompt) is None for gate in asked):
            passed.append(text)
            # as in a run: a gate that knows a prompt turns its copies away
            for gate in asked:
                gate.admit(prompt)
    if not passed:
        raise FittestError("no prompt of the pool passes the gates")
    return passed


def _probed(config: Config, texts: Sequence[str], progress: Progress | None) -> _Probe:
    """Runs a small part of a configuration and measure it."""
    small = _small_part(config)
    parts = parts_of(small)
    ready = asyncio.run(readiness(small, parts.engines, parts.reward, parts.audit))
    if progress is not None:
        for line in ready.lines:
            progress.say(line)
    with SqliteJournal(":memory:") as journal:
        evolution = assemble(small, parts, journal=journal, form=ready.form)
        asyncio.run(watched(evolution, progress))
    pool = list(evolution.state.finished[0].candidates)
    offspring = [prompt for generation in evolution.state.finished[1:] for prompt in generation.candidates]
    answered = [prompt for prompt in pool if prompt.n_drawn]
    answers = _spent(answered, "rollout")
    if not answers.completion_tokens:
        reasons = sorted({r.missing for prompt in answered for r in prompt.responses if r.missing is not None})
        raise FittestError(
            f"the probe of {len(pool)} prompts got no answer: {'; '.join(reasons) or 'gates let none in'}"
        )
    # the few prompts of the probe may be shorter or longer than those of the whole pool
    longer = mean(map(len, texts)) / mean(len(prompt.text) for prompt in answered)
    later = _spent(offspring, "rollout")
    together = min(ANSWERS, _samples_per_read(small.engine))
    references = _spent([*pool, *offspring], "reference")
    return _Probe(
        spent=evolution.feeder.traffic,
        answer=_Mean.of(answers, longer=longer * together),
        # without a judge that asks the engine, a reference is assumed to cost as much as an answer
        reference=_Mean.of(references) if references.requests else _Mean.of(answers, longer=together),
        judgment=_Mean.of(_spent([*pool, *offspring], "judge")),
        audit=_Mean.of(_spent([*pool, *offspring], "audit")),
        proposal=_Mean.of(_spent(offspring, "proposal")),
        # if no proposal passed, answers to offspring are assumed to cost as much as answers to the pool
        offspring_answer=_Mean.of(later if later.requests else answers, longer=together),
        proposals=len(offspring),
        proposals_passed=sum(prompt.gate is None for prompt in offspring),
        answers=sum(len(prompt.responses) for prompt in answered),
        failures=Counter(r.missing for prompt in answered for r in prompt.responses if r.missing is not None),
    )


def _small_part(config: Config) -> Config:
    """Returns the probe's configuration: few prompts and proposals, but enough requests to fill the engine's slots.

    It has no cuts, so that every prompt can be a parent, and no reward that does not ask the engine.
    """
    tables = config.toml_tables()
    prompts = max(config.operators.shots, math.ceil(config.engine.slots / ANSWERS))
    tables["run"] |= {"generations": min(1, config.run.generations), "mode": "generational", "arm": "evolution"}
    tables["pool"]["limit"] = min(prompts, _MOST_PROMPTS, config.pool.limit or _MOST_PROMPTS)
    tables["engine"]["sampling"]["n"] = ANSWERS
    for table, section in config.rewards.items():
        # a reward that asks no engine costs none
        asks = section.judgments(config.judge)
        tables[table] = tables[table] | {"votes": 1} if asks else {"kind": "null"}
    if not any(section.judgments(config.judge) for section in config.rewards.values()):
        tables.pop("judge", None)
    tables["selection"] = {"quantile": 0.0, "race_round": 0, "confirm": 0, "retest": 0.0}
    tables["operators"]["offspring"] = min(_PROPOSALS, config.operators.offspring)
    tables["budget"] = {}
    # a label would be counted as a judgment of an answer
    tables["archive"] = {"kind": "none"}
    return parse_config(tables)


def _spent(prompts: Sequence[Prompt], stage: Stage) -> Spending:
    return sum((prompt.spent[stage] for prompt in prompts), Spending())
