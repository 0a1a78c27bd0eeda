"""Computes the RIP metrics m1, m2, m3 (arXiv 2501.18578, section 3.2) and those of the paper's ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, MetricName
from fittest.fitness.pairing import BEST_WORST, Pairing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RipMetrics:
    """Holds the metrics of many prompts, one row each; prompts with fewer than two rewards have NaN and −1.

    Attributes:
        values: all metrics in the order of `METRICS`, shape (prompts, len(METRICS)).
        chosen: the position of the chosen response in the flat list of responses, shape (prompts,).
        rejected: the position of the rejected response, shape (prompts,).
        n: the number of responses that have a reward, shape (prompts,).
    """

    values: NDArray[np.float64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    n: NDArray[np.int64]

    def of(self, metric: MetricName) -> NDArray[np.float64]:
        """Returns one metric of every prompt, shape (prompts,)."""
        return self.values[:, METRICS.index(metric)]


def rip_metrics(
    rewards: NDArray[np.float64],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    pairing: Pairing = BEST_WORST,
    draws: NDArray[np.float64] | None = None,
) -> RipMetrics:
    """Computes the metrics of prompts from their best response and its partner, usually the worst response.

    A reward that is not finite is missing: its response can be neither best nor worst.

    Args:
        rewards: the rewards of all responses, prompt after prompt, shape (responses,).
        lengths: the length of each response in the run's unit, shape (responses,).
        counts: the number of responses of each prompt, at least 1, summing to `len(rewards)`, shape (prompts,).
        pairing: says which response is the rejected one.
        draws: a number in [0, 1) for each prompt, from `pairing.draws`; None for best-worst pairs.

    Returns:
        The metrics, one row for each prompt.
    """
    # one table for all prompts, reduced group by group: a loop over a million responses would take minutes
    starts = np.cumsum(counts) - counts
    there = np.isfinite(rewards)
    scored = np.add.reduceat(there.astype(np.int64), starts)
    # with one response, best and worst are the same one, and a gap of 0 would look like the best possible
    enough = scored >= 2
    chosen, rejected = pairing.pairs(rewards, counts, draws)
    m1 = np.where(enough, rewards[rejected], np.nan)
    chosen_reward = np.where(enough, rewards[chosen], np.nan)
    average, spread = _moments(rewards, there, starts, counts, scored)
    metrics = np.array([m1, lengths[rejected], chosen_reward - m1, chosen_reward, average, spread, lengths[chosen]])
    if not enough.all():
        metrics[:, ~enough] = np.nan
        chosen, rejected = np.where(enough, chosen, -1), np.where(enough, rejected, -1)
    return RipMetrics(metrics.T, chosen, rejected, scored)


def _moments(
    rewards: NDArray[np.float64],
    there: NDArray[np.bool_],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    scored: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes mean and standard deviation (of the population) of each prompt's rewards."""
    scored = np.maximum(scored, 1)
    mean = np.add.reduceat(np.where(there, rewards, 0.0), starts) / scored
    # 3 × 0.8 divided by 3 is a little more than 0.8: equal rewards would have another mean, and a spread
    least = np.minimum.reduceat(np.where(there, rewards, np.inf), starts)
    most = np.maximum.reduceat(np.where(there, rewards, -np.inf), starts)
    mean = np.where(least == most, least, mean)
    deviations = np.where(there, rewards - np.repeat(mean, counts), 0.0)
    return mean, np.sqrt(np.add.reduceat(deviations * deviations, starts) / scored)
