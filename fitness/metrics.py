"""RIP metrics m1, m2, m3 for best-worst pairs (arXiv 2501.18578, section 3.2), for one prompt or a whole table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RipMetrics:
    """Metrics of many prompts, one entry each; prompts with fewer than two rewards have NaN and −1.

    `chosen` and `rejected` are positions in the flat list of responses. `n` counts the rewards that are there.
    """

    m1: NDArray[np.float64]
    m2: NDArray[np.float64]
    m3: NDArray[np.float64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    n: NDArray[np.int64]

    @property
    def values(self) -> NDArray[np.float64]:
        """m1, m2, m3 side by side, shape (prompts, 3)."""
        return np.column_stack([self.m1, self.m2, self.m3])


def rip_metrics(rewards: NDArray[np.float64], lengths: NDArray[np.int64], counts: NDArray[np.int64]) -> RipMetrics:
    """Score prompts by their best and worst response.

    A reward that is not finite is missing: it is no candidate for best or worst. Among equal rewards the earlier
    response is both best and worst.

    Args:
        rewards: all responses, prompt after prompt, shape (responses,).
        lengths: length of each response in the run's unit, shape (responses,).
        counts: responses of each prompt, each at least 1, summing to `len(rewards)`, shape (prompts,).
    """
    starts = np.cumsum(counts) - counts
    there = np.isfinite(rewards)
    scored = np.add.reduceat(there.astype(np.int64), starts)
    enough = scored >= 2
    chosen = _first_best(np.where(there, rewards, -np.inf), starts, counts)
    rejected = _first_best(np.where(there, -rewards, -np.inf), starts, counts)
    m1 = np.where(enough, rewards[rejected], np.nan)
    m2 = np.where(enough, lengths[rejected], np.nan)
    m3 = np.where(enough, rewards[chosen], np.nan) - m1
    return RipMetrics(m1, m2, m3, np.where(enough, chosen, -1), np.where(enough, rejected, -1), scored)


def _first_best(
    rewards: NDArray[np.float64], starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Position of the first response that reaches its prompt's highest reward."""
    highest = np.repeat(np.maximum.reduceat(rewards, starts), counts)
    positions = np.where(rewards == highest, np.arange(len(rewards)), len(rewards))
    return np.minimum.reduceat(positions, starts)
