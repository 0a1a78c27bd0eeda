"""A pairwise judge as the reward: how likely an answer beats a reference answer to the same prompt.

The reference is the engine's own greedy answer. It makes rewards of different prompts comparable, as m1 and m3 need:
0.5 is an answer as good as what the engine says when it does not draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from fittest.evo.errors import FittestError
from fittest.evo.measurements import Measurements
from fittest.evo.prompt import prompt_id
from fittest.evo.protocols import KeepsInJournal
from fittest.evo.records import Completion, Failure, Message, Missing, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.worker import Worker
from fittest.fitness.judge.judging import verdict_of, verdict_requests, wording_id
from fittest.fitness.judge.likelihood import likelihood_verdicts
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import ORDERS, Order, Side

if TYPE_CHECKING:
    from fittest.evo.protocols import Ask, Journal
    from fittest.fitness.judge.likelihood import VerdictModel

_VERSION = 2
"""It is counted up when the same replies would give other rewards."""

_GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)
_VOTING = Sampling(temperature=0.7, top_p=0.9, max_tokens=512)
"""Votes are drawn at the temperature and top-p of arXiv 2408.02666, section 4."""

_UNREADABLE = "no verdict could be read"
_SAME_AS_REFERENCE = 0.5


class PairJudge(Protocol):
    """Tells how likely the first answer of a pair is the better one."""

    @property
    def fingerprint(self) -> str:
        """Identifies everything but the pair that decides what the judge says."""
        ...

    async def chances(self, pairs: Sequence[Pair], ask: Ask) -> list[float | Missing]:
        """Returns the chance that `response_a` of each pair wins, judged in both orders.

        Args:
            pairs: in any number.
            ask: sends requests to the run's engine, for a judge that asks it.

        Returns:
            A chance in [0, 1] for each pair, or the reason why there is none.
        """
        ...


@dataclass(frozen=True)
class VotingJudge:
    """Asks the run's own engine: a chance is the share of votes in each order, averaged over the orders.

    Attributes:
        engine: the fingerprint of the engine.
        seeds: the run's seed tree.
        votes: the number of judgments in each order, of which those that cannot be read do not count; a single one is
            greedy.
    """

    engine: str
    seeds: SeedTree
    votes: int = 1

    @property
    def fingerprint(self) -> str:
        """Joins votes, sampling, wording and engine."""
        return f"votes={self.votes},{self._sampling},wording={wording_id()}:{self.engine}"

    @property
    def _sampling(self) -> Sampling:
        return _GREEDY if self.votes == 1 else _VOTING

    async def chances(self, pairs: Sequence[Pair], ask: Ask) -> list[float | Missing]:
        """Returns what `PairJudge.chances` does; all votes are asked for together."""
        votes = self.votes
        requests = verdict_requests(pairs, votes=votes, seeds=self.seeds, sampling=self._sampling)
        sides = [verdict_of(reply) for reply in await ask(requests)]
        ballots = [sides[start : start + votes] for start in range(0, len(sides), votes)]
        return [_chance(dict(zip(ORDERS, ballots[i : i + 2], strict=True))) for i in range(0, len(ballots), 2)]


class LikelihoodJudge:
    """Measures with a model in this process how likely each verdict is, with no reasoning before it.

    Log-odds are averaged over the orders, and not probabilities, so that a preference for one position cancels out
    however strong it is; the probabilities of a judge that always prefers the first answer would say hardly anything
    about the answers.

    Args:
        model: gives the log-odds of verdicts; it is asked beside the engine, about one pair at a time.
    """

    def __init__(self, model: VerdictModel) -> None:
        self._model = model
        self._journal: Journal | None = None
        self._worker = Worker("judge")

    @property
    def fingerprint(self) -> str:
        """Joins wording and model."""
        return f"margin,wording={wording_id()}:{self._model.fingerprint}"

    def keep_in(self, journal: Journal) -> None:
        """Sets the journal that keeps each chance under the judge's fingerprint."""
        self._journal = journal

    async def chances(self, pairs: Sequence[Pair], ask: Ask) -> list[float | Missing]:
        """Returns what `PairJudge.chances` does; a chance is recorded before the next pair is judged."""

        async def measure(one: Sequence[Pair]) -> list[float | Missing]:
            return [await self._worker.call(self._chance, *one)]

        chances = Measurements(self._journal, self.fingerprint, {pair.pair_id: pair for pair in pairs})
        known = await chances.complete(measure, together=1)
        return [known[pair.pair_id] for pair in pairs]

    def _chance(self, pair: Pair) -> float | Missing:
        margin = likelihood_verdicts(self._model, pair).margin
        return Missing("longer than the judge reads") if margin is None else _logistic(margin)


class PairwiseReward:
    """Rewards an answer with the chance that it beats the reference answer to its prompt.

    Args:
        judge: compares two answers.
        engine: the fingerprint of the engine that gives the references.
        seeds: the run's seed tree.
        max_tokens: the longest that a reference may be; it is that of the answers.
    """

    quick = True

    def __init__(self, *, judge: PairJudge, engine: str, seeds: SeedTree, max_tokens: int) -> None:
        self.judge = judge
        self._engine = engine
        self._seeds = seeds
        self._sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens)
        self._ask: Ask | None = None

    @property
    def fingerprint(self) -> str:
        """Joins the judge and what determines the references."""
        return f"pairwise:{_VERSION}:{self.judge.fingerprint}:reference={self._sampling.max_tokens}:{self._engine}"

    def connect(self, ask: Ask) -> None:
        """Sets where requests go, which is `Feeder.ask_all`."""
        self._ask = ask

    def keep_in(self, journal: Journal) -> None:
        """Hands the journal to a judge that keeps its chances."""
        if isinstance(self.judge, KeepsInJournal):
            self.judge.keep_in(journal)

    async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns rewards in [0, 1], one for each response in their order.

        Args:
            prompts: the prompt of each response.
            responses: what was answered.

        Raises:
            FittestError: the reward is not connected to an engine.
        """
        if self._ask is None:
            raise FittestError("the reward is not connected to an engine; call connect(feeder.ask_all) first")
        references = await self._references(list(dict.fromkeys(prompts)), self._ask)
        contests = {
            (prompt, response): Pair(prompt, response, reference.text, label=None)
            for prompt, response in zip(prompts, responses, strict=True)
            if isinstance(reference := references[prompt], Completion) and response != reference.text
        }
        chances = await self.judge.chances(list(contests.values()), self._ask)
        known = dict(zip(contests, chances, strict=True))
        return [
            known.get((prompt, response), _without_contest(references[prompt]))
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    async def _references(self, prompts: Sequence[str], ask: Ask) -> dict[str, Completion | Failure]:
        requests = [
            Request(
                "reference",
                self._sampling,
                self._seeds.engine_seed(Stream.REFERENCE, int(prompt_id(prompt), 16)),
                messages=(Message("user", prompt),),
            )
            for prompt in prompts
        ]
        return dict(zip(prompts, await ask(requests), strict=True))


def _without_contest(reference: Completion | Failure) -> float | Missing:
    """Returns the reward of an answer that is the reference itself, or whose prompt has no reference."""
    if isinstance(reference, Failure):
        return Missing(f"no reference answer: {reference.reason}")
    return _SAME_AS_REFERENCE


def _chance(ballots: dict[Order, Sequence[Side | None]]) -> float | Missing:
    """Returns the share of readable votes for the pair's first answer in each order, averaged over both."""
    own: dict[Order, Side] = {"AB": "A", "BA": "B"}
    shares = []
    for order, votes in ballots.items():
        readable = [vote for vote in votes if vote is not None]
        if not readable:
            return Missing(f"{_UNREADABLE} in order {order}")
        shares.append(fmean(vote == own[order] for vote in readable))
    return fmean(shares)


def _logistic(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
