"""The verdict of a pairwise judgment: the one parser of it, and what several verdicts come to."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Side = Literal["A", "B"]
"""A position: A is the answer that is shown first, whichever that is."""

Order = Literal["AB", "BA"]
"""How a pair is shown: as it is recorded, or with its answers swapped."""

ORDERS: tuple[Order, ...] = get_args(Order)

_MARKED = re.compile(r"\[\[([AB])\]\]")


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a judge said of one pair in both orders, by position; None where it gave no verdict.

    Attributes:
        ab: with the answers as they are recorded.
        ba: with the answers swapped, so that "A" names the pair's second answer.
        margin: log-odds that the pair's first answer is better, mean of both orders, so that a liking for one place
            cancels out; None where the judge tells no probabilities.
    """

    ab: Side | None
    ba: Side | None
    margin: float | None = None

    @property
    def winner(self) -> Side | None:
        """The answer that both orders name, A as recorded; None where they disagree or one gave no verdict."""
        return self.ab if self.ab is not None and self.ba == other(self.ab) else None


def parse_verdict(text: str) -> Side | None:
    """The position that a judgment marks as `[[A]]` or `[[B]]`; None where it marks both, or neither."""
    marked = set(_MARKED.findall(text))
    if len(marked) != 1:
        return None
    return "A" if "A" in marked else "B"


def marked(side: Side) -> str:
    """A verdict as it has to be written."""
    return f"[[{side}]]"


def other(side: Side) -> Side:
    """The other position."""
    return "B" if side == "A" else "A"


def majority(votes: Iterable[Side | None]) -> Side | None:
    """What most of the readable votes say; None where there are none, or as many for A as for B."""
    counts = Counter(votes)
    if counts["A"] == counts["B"]:
        return None
    return "A" if counts["A"] > counts["B"] else "B"
