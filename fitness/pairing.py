"""Decides which response is chosen and which rejected: the worst, any, or a low one (arXiv 2501.18578, Table 17)."""

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
    """Pairs a prompt's best response with one from the lowest `bottom` share of its scored responses.

    If `bottom` is None, the rejected response is the worst one. Among equal rewards the earlier response is both best
    and worst.
    """

    name: str
    bottom: float | None = None

    def draws(self, seed: int, prompt_ids: Iterable[str]) -> NDArray[np.float64] | None:
        """Returns a number in [0, 1) for each prompt, from seed and prompt alone; None where nothing is drawn."""
        if self.bottom is None:
            return None
        seeds = SeedTree(seed)
        return np.array([seeds.generator(Stream.PAIRING, int(name, 16)).random() for name in prompt_ids])

    def pairs(
        self, rewards: NDArray[np.float64], counts: NDArray[np.int64], draws: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Finds the chosen and the rejected response of each prompt; they differ only where two have a reward.

        Args:
            rewards: the rewards of all responses, prompt after prompt; one that is not finite is missing, shape
                (responses,).
            counts: the number of responses of each prompt, shape (prompts,).
            draws: a number in [0, 1) for each prompt, from `draws`; None takes the worst response.

        Returns:
            Positions of the chosen and of the rejected responses in `rewards`, each of shape (prompts,).
        """
        starts = np.cumsum(counts) - counts
        there = np.isfinite(rewards)
        chosen = _first_best(np.where(there, rewards, -np.inf), starts, counts)
        if draws is None:
            return chosen, _first_best(np.where(there, -rewards, -np.inf), starts, counts)
        eligible = self.eligible(np.add.reduceat(there.astype(np.int64), starts))
        return chosen, _drawn(rewards, starts, counts, chosen, eligible, draws)

    def eligible(self, scored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many of each prompt's scored responses may be the rejected one, without the chosen one."""
        # without the 1e-9, a product such as 0.28 × 25, which is a little more than 7, would be rounded up to 8
        share = np.ceil((self.bottom or 0.0) * scored - 1e-9).astype(np.int64)
        eligible: NDArray[np.int64] = np.clip(share, 1, np.maximum(scored - 1, 1))
        return eligible


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


def _first_best(
    rewards: NDArray[np.float64], starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Finds the position of the first response that reaches its prompt's highest reward."""
    highest = np.repeat(np.maximum.reduceat(rewards, starts), counts)
    positions = np.where(rewards == highest, np.arange(len(rewards)), len(rewards))
    return np.minimum.reduceat(positions, starts)


def _drawn(
    rewards: NDArray[np.float64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    chosen: NDArray[np.int64],
    eligible: NDArray[np.int64],
    draws: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Takes one of the lowest `eligible` responses of each prompt, never the chosen one; ties go by position."""
    keys = np.where(np.isfinite(rewards), rewards, np.nan)
    keys[chosen] = np.inf
    # sorted within each prompt; NaN, the missing rewards, come after +inf, the chosen one, so neither is eligible
    order = np.lexsort((keys, np.repeat(np.arange(len(starts)), counts)))
    return order[starts + (draws * eligible).astype(np.int64)]
