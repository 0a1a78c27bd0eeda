"""Chooses the survivors that are drawn once more, which decides nothing and shows how many would survive again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import FreshDraw

RETEST: Literal["retest"] = "retest"
"""What the re-test is called where its cost and its responses are recorded."""

_FEWEST = 20
"""A share of fewer survivors says nothing, so a re-test has as many as this if there are as many."""


@dataclass(frozen=True)
class Retested:
    """Holds one survivor and its fresh draw.

    Attributes:
        prompt: the survivor.
        draw: the draw, sampled in full.
        place: its place among all that were drawn again, by generation and slot.
    """

    prompt: Prompt
    draw: FreshDraw
    place: int


OnRetested = Callable[[Retested], None]


def chosen_again(survivors: Sequence[Prompt], *, share: float, seed: int) -> list[Prompt]:
    """Returns the survivors that are drawn again, by generation and slot.

    They are those with the smallest SHA-256 of "seed:prompt_id", so that nothing about their quality chooses them, and
    a run that goes on has mostly the same ones.

    Args:
        survivors: all that could be drawn.
        share: the share of them, rounded up, that is drawn; 0 draws none, more than 0 at least 20.
        seed: the seed of the run.
    """
    if not share:
        return []
    # without the 1e-9, a product such as 0.28 × 25, which is a little more than 7, would be rounded up to 8
    count = max(_FEWEST, math.ceil(share * len(survivors) - 1e-9))

    def lot(prompt: Prompt) -> bytes:
        return hashlib.sha256(f"{seed}:{prompt.id}".encode()).digest()

    return sorted(sorted(survivors, key=lot)[:count], key=_birth)


def _birth(prompt: Prompt) -> tuple[int, int]:
    return prompt.birth.generation, prompt.birth.slot
