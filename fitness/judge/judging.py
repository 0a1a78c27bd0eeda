"""Judges pairs with a language model: by one greedy judgment in each order, or by the majority of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.evo.records import Completion, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.verdict import ORDERS, Order, Side, Verdicts, majority, parse_verdict
from fittest.fitness.judge.wording import chat, template_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.records import Failure, Message
    from fittest.fitness.judge.pair import Pair

_TEMPLATE = "verdict.j2"


def wording_id() -> str:
    """Identifies the wording of the question that a judge gets."""
    return template_id(_TEMPLATE)


def conversation(pair: Pair, order: Order) -> tuple[Message, ...]:
    """Returns the messages that a judge is shown."""
    first, second = pair.shown(order)
    return chat(_TEMPLATE, instruction=pair.instruction, first=first, second=second)


def judgment_requests(
    pair: Pair, order: Order, *, votes: int, seeds: SeedTree, sampling: Sampling, stream: Stream = Stream.JUDGE
) -> list[Request]:
    """Asks for `votes` judgments of a pair in one order; the first are the same, however many are asked for.

    Args:
        pair: the pair.
        order: the order in which its answers are shown.
        votes: the number of judgments.
        seeds: the seed tree; a seed depends on the pair, the order and the number of the vote alone.
        sampling: how judgments are drawn.
        stream: the branch of the seed tree.
    """
    drawn = seeds.engine_seeds(stream, int(pair.pair_id, 16), ORDERS.index(order), count=votes)
    shown = conversation(pair, order)
    return [Request("judge", sampling, seed, vote, shown) for vote, seed in enumerate(drawn)]


def verdict_requests(pairs: Sequence[Pair], *, votes: int, seeds: SeedTree, sampling: Sampling) -> list[Request]:
    """Asks for all judgments of all pairs in both orders, pair after pair; `read_verdicts` reads the replies."""
    return [
        request
        for pair in pairs
        for order in ORDERS
        for request in judgment_requests(pair, order, votes=votes, seeds=seeds, sampling=sampling)
    ]


def read_verdicts(replies: Sequence[Completion | Failure], *, votes: int) -> list[Verdicts]:
    """Returns the majority of the votes on each pair in each order.

    Args:
        replies: the replies to `verdict_requests`, in their order, shape (pairs × 2 × votes,).
        votes: the votes in each order, as they were asked for.

    Returns:
        The verdicts on each pair; None where no vote can be read, or where A and B have equally many.
    """
    sides = [verdict_of(reply) for reply in replies]
    ballots = [majority(sides[start : start + votes]) for start in range(0, len(sides), votes)]
    return [Verdicts(ab, ba) for ab, ba in zip(ballots[::2], ballots[1::2], strict=True)]


def verdict_of(reply: Completion | Failure) -> Side | None:
    """Returns the verdict of one reply; a failure has none."""
    return parse_verdict(reply.text) if isinstance(reply, Completion) else None
