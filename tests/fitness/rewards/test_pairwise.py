"""The pairwise reward: the chance to beat the engine's own greedy answer, in both orders."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.evo.records import Completion, Failure, Missing, Request
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Order
from fittest.fitness.rewards.pairwise import LikelihoodJudge, PairwiseReward, VotingJudge
from fittest.runs.output.journal import SqliteJournal

SEEDS = SeedTree(3)
Reply = Completion | Failure


class Engine:
    """Answers greedily with "plain"; judges by a function of the text that it is shown and the number of the vote."""

    def __init__(self, judge: Callable[[str, int], str], reference: Reply | None = None) -> None:
        self.judged: list[Request] = []
        self.answered: list[Request] = []
        self._judge = judge
        self._reference = reference or Completion("plain", "stop", 1, 1)

    async def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        if "Two answers came back" not in request.user_text:
            self.answered.append(request)
            return self._reference
        self.judged.append(request)
        return Completion(self._judge(request.user_text, request.sample), "stop", 1, 1)


def first_is(text: str, answer: str) -> bool:
    """Whether an answer is shown in the first place."""
    return text.index(answer) < text.index("plain")


def voting(engine: Engine, votes: int = 1) -> PairwiseReward:
    judge = VotingJudge("engine", SEEDS, votes=votes)
    reward = PairwiseReward(judge=judge, engine="engine", seeds=SEEDS, max_tokens=40)
    reward.connect(engine)
    return reward


def scored(reward: PairwiseReward, *responses: str) -> list[float | Missing]:
    return asyncio.run(reward.score(["What is a lake?"] * len(responses), responses))


def test_an_answer_that_wins_in_both_orders_has_reward_one_and_the_loser_zero() -> None:
    engine = Engine(lambda text, vote: "[[A]]" if first_is(text, "splendid") else "[[B]]")
    assert scored(voting(engine), "splendid") == [1.0]
    engine = Engine(lambda text, vote: "[[B]]" if first_is(text, "dreadful") else "[[A]]")
    assert scored(voting(engine), "dreadful") == [0.0]


def test_a_judge_that_prefers_a_position_says_nothing() -> None:
    assert scored(voting(Engine(lambda text, vote: "[[A]]")), "splendid", "dreadful") == [0.5, 0.5]


def test_the_reward_is_the_share_of_votes_in_each_order_and_unreadable_ones_do_not_count() -> None:
    def judge(text: str, vote: int) -> str:
        if vote == 3:
            return "neither [[A]] nor [[B]]"
        return "[[A]]" if (vote < 2) == first_is(text, "splendid") else "[[B]]"

    assert scored(voting(Engine(judge), votes=4), "splendid") == [pytest.approx(2 / 3)]


def test_without_a_readable_vote_in_one_order_the_reward_is_missing() -> None:
    engine = Engine(lambda text, vote: "[[A]]" if first_is(text, "splendid") else "well")
    assert scored(voting(engine), "splendid") == [Missing("no verdict could be read in order BA")]


def test_the_reference_is_asked_for_greedily_once_for_a_prompt_and_ties_with_itself() -> None:
    engine = Engine(lambda text, vote: "[[A]]")
    assert scored(voting(engine), "plain", "splendid", "plain") == [0.5, 0.5, 0.5]
    (reference,) = engine.answered
    assert (reference.sampling.temperature, reference.sampling.max_tokens) == (0.0, 40)
    assert len(engine.judged) == 2


def test_a_prompt_without_a_reference_answer_has_missing_rewards() -> None:
    engine = Engine(lambda text, vote: "[[A]]", reference=Failure("too long"))
    assert scored(voting(engine), "splendid") == [Missing("no reference answer: too long")]


def test_one_vote_is_greedy_and_more_are_drawn() -> None:
    for votes, temperature in ((1, 0.0), (3, 0.7)):
        engine = Engine(lambda text, vote: "[[A]]")
        scored(voting(engine, votes), "splendid")
        assert {request.sampling.temperature for request in engine.judged} == {temperature}
        assert len(engine.judged) == 2 * votes


def test_it_has_to_be_connected() -> None:
    judge = VotingJudge("engine", SEEDS)
    with pytest.raises(FittestError, match="not connected"):
        scored(PairwiseReward(judge=judge, engine="engine", seeds=SEEDS, max_tokens=40), "x")


def test_fingerprints_tell_judges_and_references_apart() -> None:
    def fingerprint(engine: str, votes: int, max_tokens: int) -> str:
        judge = VotingJudge(engine, SEEDS, votes=votes)
        return PairwiseReward(judge=judge, engine=engine, seeds=SEEDS, max_tokens=max_tokens).fingerprint

    found = [fingerprint(*settings) for settings in (("a", 1, 9), ("b", 1, 9), ("a", 2, 9), ("a", 1, 8))]
    assert len(set(found)) == 4


class Odds:
    """Log-odds that grow with the length of the answer shown first, and how often they were computed."""

    fingerprint = "odds"

    def __init__(self, position: float = 0.0) -> None:
        self.computed = 0
        self._position = position

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        self.computed += 1
        first, second = pair.shown(order)
        return math.nan if "long" in first + second else self._position + len(first) - len(second)


def likely(model: Odds, journal: SqliteJournal) -> PairwiseReward:
    reward = PairwiseReward(judge=LikelihoodJudge(model), engine="engine", seeds=SEEDS, max_tokens=40)
    reward.connect(Engine(lambda text, vote: pytest.fail("the engine is not asked")))
    reward.keep_in(journal)
    return reward


@given(st.floats(-900, 900))
def test_preferring_a_position_changes_nothing(position: float) -> None:
    chances = scored(likely(Odds(position), SqliteJournal(":memory:")), "equal", "plainer")
    assert chances == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


def test_a_likelihood_judge_tells_the_probability_and_keeps_it() -> None:
    journal = SqliteJournal(":memory:")
    model = Odds()
    expected = [pytest.approx(1 / (1 + math.exp(-2))), Missing("longer than the judge reads")]
    assert scored(likely(model, journal), "plain, a", "longest")[1] == expected[1]
    assert scored(likely(model, journal), "plainer")[0] == expected[0]
    computed = model.computed
    assert scored(likely(model, journal), "plainer", "longest") == expected
    assert model.computed == computed
