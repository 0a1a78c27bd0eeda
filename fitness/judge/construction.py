"""Makes pairs with a known better answer from a model alone: a good answer, and one that answers something else.

The winner answers the instruction. The loser is a good answer to a changed instruction, so that it is fluent and
complete, and still worse here (arXiv 2408.02666, section 3.2). The paper does not check these pairs; this module does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fittest.evo.prompt import prompt_id
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.wording import TAG, chat, opening

if TYPE_CHECKING:
    from fittest.evo.protocols import Ask

Variant = Literal["modified", "modified-in-two-steps", "worse"]
"""The variant says how a loser is made.

With `modified`, one reply holds the changed instruction and its answer, as in the paper. With `modified-in-two-steps`,
the changed instruction is asked for alone, as the next item of a list of examples, and then answered like any other;
this serves models that are too small to keep to a form. With `worse`, a worse answer is asked for directly, which the
paper compares and finds to teach less.
"""

# two answers whose words are as similar as this say the same (normalised longest common subsequence)
_MOST_ALIKE = 0.9

# ends a changed instruction that is asked for alone
_CLOSING = "</second>"

_FORM = re.compile(
    r"\s*<new instruction>(?P<instruction>.+?)</new instruction>\s*<answer>(?P<answer>.+?)(?:</answer>\s*)?", re.DOTALL
)
_FORM_TAGS = ("<new instruction>", "</new instruction>", "<answer>", "</answer>")
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Construction:
    """Holds a pair as it was made, whether it can be used or not.

    Attributes:
        instruction: the instruction that the winner answers.
        category: the category of the instruction; it may be empty.
        winner: the good answer.
        loser: the answer to something else.
        modified: the changed instruction; empty if none was asked for.
        reason: why the pair cannot be used; None if it can.
    """

    instruction: str
    category: str = ""
    winner: str = ""
    loser: str = ""
    modified: str = ""
    reason: str | None = None

    @property
    def alike(self) -> float:
        """Returns how similar the two answers are, from 0 to 1."""
        return _likeness(self.winner, self.loser)


async def construct(
    instructions: Sequence[tuple[str, str]], *, ask: Ask, seeds: SeedTree, sampling: Sampling, variant: Variant
) -> list[Construction]:
    """Makes a pair for each instruction, in their order, with two requests each, or three in two steps.

    Args:
        instructions: tuples (instruction, category).
        ask: sends requests to the engine.
        seeds: the seed tree; a request's seed depends on its instruction and its step alone.
        sampling: how all replies are drawn.
        variant: how losers are made.

    Returns:
        One construction for each instruction; those that cannot be used say why.
    """
    answers = await ask([_answer_request(text, _seed(seeds, text, 0), sampling) for text, _ in instructions])
    made = [
        _with_winner(Construction(text, category), reply)
        for (text, category), reply in zip(instructions, answers, strict=True)
    ]
    asked = [position for position, pair in enumerate(made) if pair.reason is None]
    replies = await ask(
        [
            _loser_request(made[position], variant, _seed(seeds, made[position].instruction, 1), sampling)
            for position in asked
        ]
    )
    for position, reply in zip(asked, replies, strict=True):
        made[position] = _with_reply(made[position], reply, variant)
    if variant == "modified-in-two-steps":
        asked = [position for position in asked if made[position].reason is None]
        replies = await ask(
            [
                _answer_request(pair.modified, _seed(seeds, pair.instruction, 2), sampling)
                for pair in (made[position] for position in asked)
            ]
        )
        for position, reply in zip(asked, replies, strict=True):
            made[position] = _with_loser(made[position], reply)
    return [_checked(pair) for pair in made]


def _checked(pair: Construction) -> Construction:
    """Adds the first reason for which the pair cannot be used, if there is one."""
    if pair.reason is not None:
        return pair
    reason = None
    if pair.modified and _plain(pair.modified) == _plain(pair.instruction):
        reason = "the changed instruction is the instruction"
    elif pair.modified and _likeness(pair.modified, pair.winner) >= _MOST_ALIKE:
        reason = "the changed instruction is the winner"
    elif not _plain(pair.loser):
        reason = "the loser is empty"
    elif pair.alike >= _MOST_ALIKE:
        reason = "the loser says what the winner says"
    return replace(pair, reason=reason)


def placed(pairs: Sequence[Construction], seeds: SeedTree) -> list[Pair]:
    """Returns pairs for judges: the winner is answer A in half of them, drawn by seed, and B in the others."""
    order = seeds.generator(Stream.PAIR, 1).permutation(len(pairs))
    first = set(order[: (len(pairs) + 1) // 2].tolist())
    return [
        Pair(pair.instruction, pair.winner, pair.loser, "A", pair.category)
        if position in first
        else Pair(pair.instruction, pair.loser, pair.winner, "B", pair.category)
        for position, pair in enumerate(pairs)
    ]


def _likeness(one: str, other: str) -> float:
    """Divides the longest common subsequence of words by the length of the longer text; two empty texts give 1."""
    from rapidfuzz.distance import LCSseq

    return float(LCSseq.normalized_similarity(_plain(one), _plain(other)))


def _parse_modified(text: str) -> tuple[str, str] | None:
    """Reads the changed instruction and its answer; None if the reply does not have the form that was asked for."""
    form = _FORM.fullmatch(text)
    if form is None or any(text.count(tag) > 1 for tag in _FORM_TAGS) or "</answer>" in form["answer"]:
        return None
    instruction, answer = form["instruction"].strip(), form["answer"].strip()
    return (instruction, answer) if instruction and answer else None


def _seed(seeds: SeedTree, instruction: str, step: int) -> int:
    return seeds.engine_seed(Stream.PAIR, 0, int(prompt_id(instruction), 16), step)


def _answer_request(instruction: str, seed: int, sampling: Sampling) -> Request:
    # asked like any answer, so that the judge learns from answers such as it will have to judge
    return Request("rollout", sampling, seed, messages=(Message("user", instruction),))


def _loser_request(pair: Construction, variant: Variant, seed: int, sampling: Sampling) -> Request:
    """Asks for what the loser comes from: itself, or the changed instruction that it will answer."""
    if variant == "modified-in-two-steps":
        begun = opening("modified_instruction.j2", instruction=pair.instruction)
        return Request("proposal", replace(sampling, stop=(_CLOSING,)), seed, prompt=begun)
    shown = chat(f"{variant}.j2", instruction=pair.instruction, winner=pair.winner)
    return Request("proposal", sampling, seed, messages=shown)


def _with_winner(pair: Construction, reply: Completion | Failure) -> Construction:
    if isinstance(reply, Failure):
        return replace(pair, reason=f"no winner: {reply.reason}")
    winner = reply.text.strip()
    return replace(pair, winner=winner, reason=None if _plain(winner) else "the winner is empty")


def _with_reply(pair: Construction, reply: Completion | Failure, variant: Variant) -> Construction:
    if variant == "worse" or isinstance(reply, Failure):
        return _with_loser(pair, reply)
    if variant == "modified-in-two-steps":
        return replace(pair, modified=reply.text.strip(), reason=_modified_in_vain(pair, reply))
    parts = _parse_modified(reply.text)
    if parts is None:
        return replace(pair, reason="the reply holds no changed instruction with its answer")
    return replace(pair, modified=parts[0], loser=parts[1])


def _modified_in_vain(pair: Construction, reply: Completion) -> str | None:
    """Says why a changed instruction that was asked for alone is not worth an answer; None if it is."""
    words = _plain(reply.text)
    if not words:
        return "no changed instruction"
    if reply.finish_reason == "length":
        return "the changed instruction was cut off"
    if TAG.search(reply.text):
        return "the changed instruction runs on"
    return "the changed instruction is the instruction" if words == _plain(pair.instruction) else None


def _with_loser(pair: Construction, reply: Completion | Failure) -> Construction:
    if isinstance(reply, Failure):
        return replace(pair, reason=f"no loser: {reply.reason}")
    return replace(pair, loser=reply.text.strip())


def _plain(text: str) -> list[str]:
    """Returns the words alone: neither case nor punctuation makes two texts different."""
    return _WORDS.findall(text.casefold())
