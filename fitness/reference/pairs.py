"""Describes a model that gives log-probabilities of two answers, and which tokens of a chat they are summed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fittest.evo.pretrained.chats import written
from fittest.evo.records import Message


@dataclass(frozen=True, slots=True)
class AnsweredPair:
    """Holds a chat and the two answers to it that a trainer compares."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


class PairLogProbabilities(NamedTuple):
    """Holds the log-probability of each answer, summed over its tokens and the end of its turn, in nats."""

    chosen: float
    rejected: float


class ReferenceModel(Protocol):
    """Describes a model that can say how likely given answers are; an engine that only generates cannot."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and everything else that changes a number; numbers are kept under it."""
        ...

    def log_probabilities(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        """Returns the log-probabilities of each pair; None if one of its answers is too long for the model.

        Args:
            pairs: the chats with their answers.

        Raises:
            FittestError: the model cannot be loaded or reached, or has no chat template.
        """
        ...


class PairTokens(NamedTuple):
    """Holds the tokens of a chat with either answer, and how many tokens at the beginning are no part of an answer."""

    begun: int
    chosen: list[int]
    rejected: list[int]


def pair_tokens(tokenizer: Any, pair: AnsweredPair) -> PairTokens:
    """Tokenizes a pair as TRL does, so that a sum over the tokens is the number that its DPOTrainer would compute.

    An answer begins where the chat with it and the opening of an answer differ. This is not always where the opening
    ends, since some templates write an opening that they leave out once there is an answer.

    Args:
        tokenizer: a tokenizer of transformers.
        pair: the chat with its answers.

    Raises:
        FittestError: the tokenizer has no chat template.
    """
    turns = [message._asdict() for message in pair.messages]
    opening = _tokens(tokenizer, turns, opened=True)
    chosen, rejected = (
        _tokens(tokenizer, [*turns, {"role": "assistant", "content": answer}], opened=False)
        for answer in (pair.chosen, pair.rejected)
    )
    begun = min(shared_beginning(opening, chosen), shared_beginning(opening, rejected))
    return PairTokens(begun, chosen, rejected)


def shared_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many tokens at the beginning are the same."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _tokens(tokenizer: Any, turns: list[dict[str, str]], *, opened: bool) -> list[int]:
    read = written(tokenizer, turns, tokenize=True, return_dict=True, add_generation_prompt=opened)
    return list(read["input_ids"])
