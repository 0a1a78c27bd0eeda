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

    A reward that is not finite is missing: its response can be neither best nor worst. Among equal rewards the
    earlier response is both best and worst.

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
    chosen = _first_best(np.where(there, rewards, -np.inf), starts, counts)
    if draws is None:
        rejected = _first_best(np.where(there, -rewards, -np.inf), starts, counts)
    else:
        rejected = _drawn(rewards, starts, counts, chosen, pairing.eligible(scored), draws)
    m1 = np.where(enough, rewards[rejected], np.nan)
    chosen_reward = np.where(enough, rewards[chosen], np.nan)
    average, spread = _moments(rewards, there, starts, counts, scored)
    metrics = np.array([m1, lengths[rejected], chosen_reward - m1, chosen_reward, average, spread, lengths[chosen]])
    if not enough.all():
        metrics[:, ~enough] = np.nan
        chosen, rejected = np.where(enough, chosen, -1), np.where(enough, rejected, -1)
    return RipMetrics(metrics.T, chosen, rejected, scored)


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
    deviations = np.where(there, rewards - np.repeat(mean, counts), 0.0)
    return mean, np.sqrt(np.add.reduceat(deviations * deviations, starts) / scored)
