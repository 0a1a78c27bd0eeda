"""Pairs a prompt's best response with another: the worst, any, or one of the lowest (arXiv 2501.18578, Table 17)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.errors import FittestError
from fittest.evo.seeds import SeedTree, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pairing:
    """Draws the rejected response from the lowest `bottom` share of a prompt's scored responses.

    If `bottom` is None, the rejected response is the worst one.
    """

    name: str
    bottom: float | None = None

    def eligible(self, scored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many of each prompt's responses may be the rejected one, without the chosen one."""
        # without the 1e-9, a product such as 0.28 × 25, which is a little more than 7, would be rounded up to 8
        share = np.ceil((self.bottom or 0.0) * scored - 1e-9).astype(np.int64)
        eligible: NDArray[np.int64] = np.clip(share, 1, np.maximum(scored - 1, 1))
        return eligible

    def draws(self, seed: int, prompt_ids: Iterable[str]) -> NDArray[np.float64] | None:
        """Returns a number in [0, 1) for each prompt, from seed and prompt alone; None where nothing is drawn."""
        if self.bottom is None:
            return None
        seeds = SeedTree(seed)
        return np.array([seeds.generator(Stream.PAIRING, int(name, 16)).random() for name in prompt_ids])


BEST_WORST = Pairing("best-worst")


def parse_pairing(name: str) -> Pairing:
    """Returns a pairing by its name.

    Args:
        name: best-worst, best-random, or best-bottom:FRACTION.

    Raises:
        FittestError: there is no such pairing.
    """
    if name == BEST_WORST.name:
        return BEST_WORST
    if name == "best-random":
        return Pairing(name, bottom=1.0)
    stem, _, fraction = name.partition(":")
    try:
        bottom = float(fraction)
    except ValueError:
        bottom = 0.0
    if stem != "best-bottom" or not 0 < bottom <= 1:
        raise FittestError(
            f"pairing {name!r}: write best-worst, best-random, or best-bottom:FRACTION (above 0, at most 1)"
        )
    return Pairing(name, bottom)
