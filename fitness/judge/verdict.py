"""Reads the verdict of a pairwise judgment, and combines several verdicts; no other module parses one."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Side = Literal["A", "B"]
"""A side is a position: A is the answer that is shown first, whichever that is."""

Order = Literal["AB", "BA"]
"""The order says how a pair is shown: as it is recorded, or with its answers swapped."""

ORDERS: tuple[Order, ...] = get_args(Order)

_MARKED = re.compile(r"\[\[([AB])\]\]")


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Holds what a judge said of one pair in both orders, by position; None stands for no verdict.

    Attributes:
        ab: the verdict on the answers as they are recorded.
        ba: the verdict on the answers swapped, so that "A" names the pair's second answer.
        margin: the log-odds that the pair's first answer is better, averaged over both orders, so that a liking for
            one position cancels out; None if the judge gives no probabilities.
    """

    ab: Side | None
    ba: Side | None
    margin: float | None = None

    @property
    def winner(self) -> Side | None:
        """Returns the answer that both orders name, A as recorded; None if they disagree or one gave no verdict."""
        return self.ab if self.ab is not None and self.ba == other(self.ab) else None


def parse_verdict(text: str) -> Side | None:
    """Returns the position that a judgment marks as `[[A]]` or `[[B]]`; None if it marks both, or neither."""
    marked = set(_MARKED.findall(text))
    if len(marked) != 1:
        return None
    return "A" if "A" in marked else "B"


def marked(side: Side) -> str:
    """Returns a verdict as it has to be written."""
    return f"[[{side}]]"


def other(side: Side) -> Side:
    """Returns the other position."""
    return "B" if side == "A" else "A"


def majority(votes: Iterable[Side | None]) -> Side | None:
    """Returns what most of the readable votes say; None if there are none, or equally many for A and for B."""
    counts = Counter(votes)
    if counts["A"] == counts["B"]:
        return None
    return "A" if counts["A"] > counts["B"] else "B"
