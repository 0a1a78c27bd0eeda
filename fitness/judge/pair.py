"""Defines a pair: two answers to one instruction, and which of them is the better one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fittest.fitness.judge.verdict import Order, Side, other


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds one example for a judge.

    Attributes:
        instruction: what was asked; for a dialogue, all of it but the last answer.
        response_a: the answer that is shown first in order AB.
        response_b: the other answer.
        label: the better answer; None if people found neither better.
        subset: the part of a data set, or the category, under which the pair is counted.
    """

    instruction: str
    response_a: str
    response_b: str
    label: Side | None
    subset: str = ""

    @property
    def pair_id(self) -> str:
        """Returns 16 hex digits over the texts in their order, without the label, which a judge does not see."""
        # with lengths, so that texts that are divided differently do not give the same digits
        texts = (self.instruction, self.response_a, self.response_b)
        return hashlib.sha256("".join(f"{len(text)}:{text}" for text in texts).encode()).hexdigest()[:16]

    @property
    def winner(self) -> str:
        """Returns the better answer."""
        return self.response_b if self.label == "B" else self.response_a

    @property
    def loser(self) -> str:
        """Returns the worse answer."""
        return self.response_a if self.label == "B" else self.response_b

    def shown(self, order: Order) -> tuple[str, str]:
        """Returns the answers as a judge sees them, first and second."""
        return (self.response_a, self.response_b) if order == "AB" else (self.response_b, self.response_a)

    def expected(self, order: Order) -> Side | None:
        """Returns the position of the better answer when the pair is shown in this order."""
        return self.label if order == "AB" or self.label is None else other(self.label)
