"""Models how a prompt would be answered again: a mean and a spread of rewards, and a mean length, for each prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.records import METRICS
from fittest.fitness.pairing import BEST_WORST, Pairing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = 4096
_WIDEST = 5.0
_SCORES = (np.arange(_GRID) + 0.5) / _GRID * 2 * _WIDEST - _WIDEST
"""Scores are looked up on a grid from −5 to 5; hardly one of a million normal numbers lies outside."""

_MOST_NOISE = 100_000
"""The shape of the noise needs no more residuals than this."""

_LEAST_VARIANCE = 1e-9
"""Keeps matrices regular where all rewards, or all lengths, are equal."""

_STEPS = np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0])[:, None]
"""Multiples of these roots fill five dimensions more evenly than random numbers do (a Kronecker sequence)."""


class ResponseModel:
    """Fits a hierarchical model to the responses of a table, and simulates fresh draws of it.

    Rewards and lengths are replaced by their normal scores, so that neither scale nor heavy tails matter, and ties
    stay ties. Each prompt has a mean reward and a mean length, which are shrunk towards those of all prompts, and a
    variance of rewards, which is shrunk in the same way (an inverse χ² prior whose weight is found by moments, as in
    Smyth, SAGMB 3, 2004). The shape of the noise, and how reward and length go together in it, is that of the pooled
    residuals.

    Args:
        rewards: the rewards of all responses, prompt after prompt, all of them known, shape (responses,).
        lengths: the length of each response, shape (responses,).
        counts: the number of responses of each prompt, at least 2, shape (prompts,); at least two prompts.
    """

    def __init__(self, rewards: NDArray[np.float64], lengths: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        starts, owner = np.cumsum(counts) - counts, np.repeat(np.arange(len(counts)), counts)
        scores = np.stack([_normal_scores(rewards), _normal_scores(lengths)])
        means = np.add.reduceat(scores, starts, axis=1) / counts
        noise = scores - means[:, owner]
        degrees = counts - 1
        squares = np.add.reduceat(noise[0] ** 2, starts)
        within = noise @ noise.T / degrees.sum() + _LEAST_VARIANCE * np.eye(2)
        weight = _prior_weight(squares / degrees / within[0, 0], degrees)
        self.counts = counts
        self._scale = weight * within[0, 0] * (weight - 2) / weight + squares
        self._degrees = weight + degrees
        variance = self._scale / (self._degrees - 2)
        self._shrink(means, within, variance)
        step = -(-len(owner) // _MOST_NOISE)
        noise, owner = noise[:, ::step], owner[::step]
        # residuals about a mean of few responses are too small by this factor
        noise = noise * np.sqrt(counts / degrees)[owner]
        noise[0] /= np.sqrt(variance)[owner]
        noise[0] /= max(float(np.sqrt((noise[0] ** 2).mean())), _LEAST_VARIANCE)
        self._noise = noise[:, np.argsort(noise[0], kind="stable")]
        self._rewards, self._lengths = _by_score(rewards), _by_score(lengths)

    def _shrink(self, means: NDArray[np.float64], within: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
        """Finds the posterior of the mean reward and the mean length of each prompt, which are jointly normal."""
        between = np.cov(means) - within * np.mean(1 / self.counts)
        sizes, axes = np.linalg.eigh(between)
        between = (axes * np.maximum(sizes, _LEAST_VARIANCE)) @ axes.T
        ratio = variance / within[0, 0]
        noise = within[None] * np.ones((len(variance), 1, 1))
        noise[:, 0, 0] *= ratio
        noise[:, 0, 1] *= np.sqrt(ratio)
        noise[:, 1, 0] *= np.sqrt(ratio)
        gain = between @ np.linalg.inv(between + noise / self.counts[:, None, None])
        centre = means.mean(axis=1)
        self._means = centre + np.einsum("pij,jp->pi", gain, means - centre[:, None])
        left = between - gain @ between
        self._roots = np.linalg.cholesky((left + left.transpose(0, 2, 1)) / 2 + _LEAST_VARIANCE * np.eye(2))

    def kept(
        self,
        keep: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
        *,
        times: int,
        rng: np.random.Generator,
        pairing: Pairing = BEST_WORST,
        draws: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Returns the share of simulated draws of the whole table on which each prompt is kept, shape (prompts,).

        Args:
            keep: tells from the metrics of a draw which prompts are kept.
            times: how many draws are simulated.
            rng: draws them.
            pairing: says which response is the rejected one.
            draws: the numbers that decide it; None for best-worst pairs.
        """
        shifts = rng.random((len(_STEPS), len(self.counts)))
        place = np.zeros(len(self.counts), dtype=np.int64)
        if draws is not None:
            place = (draws * pairing.eligible(self.counts)).astype(np.int64)
        total = np.zeros(len(self.counts))
        for draw in range(times):
            uniform = (shifts + draw * _STEPS) % 1.0
            rejected = 1.0 - uniform[3] ** (1 / self.counts)
            if draws is not None:
                rejected = rng.beta(place + 1, self.counts - place)
            # the best of the responses that are better than the rejected one
            chosen = rejected + (1.0 - rejected) * uniform[4] ** (1 / (self.counts - place - 1))
            total += keep(self._metrics(_normal(uniform[:3]), rejected, chosen))
        return total / times

    def _metrics(
        self, normal: NDArray[np.float64], rejected: NDArray[np.float64], chosen: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns the metrics of one simulated draw, NaN for those that need all responses.

        Args:
            normal: three normal numbers for each prompt, shape (3, prompts).
            rejected: the level of the rejected response in the distribution of the noise, in [0, 1), shape (prompts,).
            chosen: that of the chosen response.
        """
        reward = self._means[:, 0] + self._roots[:, 0, 0] * normal[0]
        length = self._means[:, 1] + self._roots[:, 1, 0] * normal[0] + self._roots[:, 1, 1] * normal[1]
        # Wilson and Hilferty's normal approximation of χ²
        ninth = 2 / (9 * self._degrees)
        spread = np.sqrt(self._scale / self._degrees)
        spread *= np.maximum(1 - ninth + normal[2] * np.sqrt(ninth), 0.05) ** -1.5
        low, high = (self._noise[:, _places(level, self._noise.shape[1])] for level in (rejected, chosen))
        values = np.full((len(reward), len(METRICS)), np.nan)
        values[:, 0] = _at(self._rewards, reward + spread * low[0])
        values[:, 1] = _at(self._lengths, length + low[1])
        values[:, 3] = _at(self._rewards, reward + spread * high[0])
        values[:, 2] = values[:, 3] - values[:, 0]
        values[:, 6] = _at(self._lengths, length + high[1])
        return values


def _normal_scores(values: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the normal quantile of each value's mean rank."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    levels = (np.cumsum(counts) - counts / 2) / len(values)
    scores: NDArray[np.float64] = np.interp(levels, _levels(), _SCORES)[where]
    return scores


def _by_score(values: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the values that belong to the normal scores of the grid, shape (grid,)."""
    return np.sort(values)[_places(_levels(), len(values))].astype(np.float64)


def _at(table: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Looks scores up on the grid."""
    found: NDArray[np.float64] = table[_places((scores + _WIDEST) / (2 * _WIDEST), _GRID)]
    return found


def _normal(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the normal quantiles of levels in [0, 1), to the precision of a grid."""
    found: NDArray[np.float64] = _quantiles()[_places(levels, _GRID)]
    return found


@cache
def _levels() -> NDArray[np.float64]:
    """Returns the share of a normal distribution below each score of the grid."""
    # scipy.special has this function, but its import takes longer than most tables
    return np.array([math.erfc(-score / math.sqrt(2)) / 2 for score in _SCORES.tolist()])


@cache
def _quantiles() -> NDArray[np.float64]:
    """Returns the normal quantiles of evenly spaced levels."""
    return np.interp((np.arange(_GRID) + 0.5) / _GRID, _levels(), _SCORES)


def _places(levels: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Returns the places of levels in [0, 1] among so many values in rising order."""
    return np.clip((levels * count).astype(np.intp), 0, count - 1)


def _prior_weight(ratios: NDArray[np.float64], degrees: NDArray[np.int64]) -> float:
    """Returns the weight of the prior of the prompts' variances, in degrees of freedom, by the method of moments.

    Args:
        ratios: the variance of each prompt divided by the mean of all, shape (prompts,).
        degrees: its degrees of freedom, shape (prompts,).
    """
    square = float(np.average(ratios**2 / (1 + 2 / degrees), weights=degrees))
    # an inverse χ² with d degrees has a mean square of (d − 2) / (d − 4) squared means; its variance needs d > 4
    most = 200.0
    return float(np.clip((4 * square - 2) / (square - 1), 4.2, most)) if square > 1 else most
