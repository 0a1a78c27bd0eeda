"""Divides the responses of every prompt into two random halves, many times, and computes the metrics of each half."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fittest.evo.records import METRICS, RIP_METRICS, MetricName
from fittest.fitness.pairing import BEST_WORST, Pairing

FEWEST_TO_HALVE = 4
"""A half needs two scored responses to have metrics, so a prompt needs four to have two halves."""

_COMPUTED = ("average_reward", "reward_std")
"""These metrics need every reward of a half; all others are known from the order of the rewards."""


_Places = NDArray[np.unsignedinteger]


class HalfDraws:
    """Draws halves of the scored responses of all prompts at once; a half of n responses has n // 2 of them.

    Args:
        rewards: the rewards of all responses, prompt after prompt; one that is not finite is missing, shape
            (responses,).
        lengths: the length of each response, shape (responses,).
        counts: the number of responses of each prompt, shape (prompts,).
        pairing: says which response is the rejected one.
        draws: a number in [0, 1) for each prompt, from `pairing.draws`; None for best-worst pairs.
        metrics: the metrics that are wanted, beside m1, m2 and m3; others may be NaN.
        rng: puts the responses of each prompt into a random order.
    """

    def __init__(
        self,
        rewards: NDArray[np.float64],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        *,
        pairing: Pairing = BEST_WORST,
        draws: NDArray[np.float64] | None = None,
        metrics: Collection[MetricName] = RIP_METRICS,
        rng: np.random.Generator,
    ) -> None:
        there = np.isfinite(rewards)
        owner = np.repeat(np.arange(len(counts)), counts)[there]
        self.n = np.bincount(owner, minlength=len(counts))
        self._wanted = metrics
        self._blocks = list(_blocks(rewards[there], lengths[there], self.n, pairing, draws, rng))

    @property
    def enough(self) -> NDArray[np.bool_]:
        """Tells for each prompt whether its halves have metrics, shape (prompts,)."""
        return self.n >= FEWEST_TO_HALVE

    def split(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Divides the responses of each prompt into two halves; of an odd number, one response is in neither.

        Args:
            rng: decides which response belongs to which half.

        Returns:
            The metrics of both halves in the order of `METRICS`, each of shape (prompts, len(METRICS)); NaN for a
            prompt with too few scored responses.
        """
        one, other = (np.full((len(self.n), len(METRICS)), np.nan) for _ in range(2))
        for block in self._blocks:
            first, second = block.split(rng)
            one[block.prompts] = block.metrics(first, self._wanted)
            other[block.prompts] = block.metrics(second, self._wanted)
        return one, other


@dataclass(frozen=True)
class _Block:
    """Holds the scored responses of prompts with similar numbers of them, each prompt in a column, padded at its end.

    Attributes:
        prompts: the positions of the prompts, in the order of n, shape (prompts,).
        n: the number of scored responses of each, shape (prompts,).
        rewards: their rewards in rising order, shape (largest n, prompts).
        lengths: the lengths of these responses, shape (largest n, prompts).
        ranks: the places of the responses in that order, in an order that was drawn, shape (largest n, prompts).
        pairing: says which response is the rejected one.
        draws: the numbers that decide it; None for best-worst pairs.
    """

    prompts: NDArray[np.int64]
    n: NDArray[np.int64]
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ranks: _Places
    pairing: Pairing
    draws: NDArray[np.float64] | None

    def split(self, rng: np.random.Generator) -> tuple[_Places, _Places]:
        """Returns the places of the responses in each of two halves, and `_nowhere` for all others, like `ranks`."""
        # the responses of each prompt stand in an order of their own, so one choice serves all prompts
        order = rng.permutation(len(self.ranks))
        sizes, columns = np.unique(self.n, return_counts=True)
        inside = order[:, None] < sizes
        number = np.cumsum(inside, axis=0)
        half = sizes // 2
        # prompts of the same n lend each other their orders, so that two prompts do not move together in every split
        turn, groups = rng.random(), np.split(self.ranks, np.cumsum(columns)[:-1], axis=1)
        ranks = np.concatenate([np.roll(group, int(turn * group.shape[1]), axis=1) for group in groups], axis=1)
        halves = []
        for taken in (inside & (number <= half), inside & (number > half) & (number <= 2 * half)):
            outside = np.zeros(taken.shape, dtype=ranks.dtype)
            outside[order] = np.where(taken, 0, _nowhere(ranks))
            # an operation on bits is several times as fast as a choice between two arrays
            halves.append(ranks | np.repeat(outside, columns, axis=1))
        return halves[0], halves[1]

    def metrics(self, places: _Places, wanted: Collection[MetricName]) -> NDArray[np.float64]:
        """Computes the metrics of a half, as `rip_metrics` does, shape (prompts, len(METRICS)).

        Args:
            places: a half, from `split`.
            wanted: the metrics that are looked at.
        """
        columns = np.arange(len(self.prompts))
        # one more than "nowhere" is 0
        least, most = places.min(axis=0), (places + 1).max(axis=0) - 1
        highest = self.rewards[most, columns]
        chosen = most
        if self.draws is not None or "chosen_length" in wanted:
            # of equally good responses the earliest is chosen, and it has the lowest place among them
            chosen = np.where(self._rewards_at(places) == highest, places, _nowhere(places)).min(axis=0)
        rejected = least if self.draws is None else self._drawn(chosen, places, self.draws)
        m1 = self.rewards[rejected, columns]
        values = np.full((len(self.prompts), len(METRICS)), np.nan)
        values[:, :4] = np.stack([m1, self.lengths[rejected, columns], highest - m1, highest], axis=1)
        if not set(_COMPUTED).isdisjoint(wanted):
            equal = self.rewards[least, columns] == highest
            values[:, 4:6] = self._moments(places, np.where(equal, highest, np.nan))
        if "chosen_length" in wanted:
            values[:, 6] = self.lengths[chosen, columns]
        return values

    def _drawn(self, chosen: _Places, places: _Places, draws: NDArray[np.float64]) -> _Places:
        """Takes one of the lowest eligible responses of a half, never the chosen one."""
        index = (draws * self.pairing.eligible(self.n // 2)).astype(np.intp)
        rising = np.sort(np.where(places == chosen, _nowhere(places), places), axis=0)
        return rising[index, np.arange(len(index))]

    def _moments(self, places: _Places, equal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes mean and standard deviation of the rewards of a half.

        Args:
            places: the half.
            equal: the reward of prompts whose rewards in this half are all equal, NaN for others, shape (prompts,).
        """
        rewards, taken, size = self._rewards_at(places), places != _nowhere(places), self.n // 2
        # rounding would give equal rewards another mean, and a spread
        mean = np.where(np.isnan(equal), np.where(taken, rewards, 0.0).sum(axis=0) / size, equal)
        deviations = np.where(taken, rewards - mean, 0.0)
        return np.stack([mean, np.sqrt((deviations * deviations).sum(axis=0) / size)], axis=1)

    def _rewards_at(self, places: _Places) -> NDArray[np.float64]:
        """Returns the rewards at these places; any reward of the prompt for "nowhere"."""
        return np.take_along_axis(self.rewards, np.minimum(places, self.n - 1).astype(np.intp), axis=0)


def _nowhere(places: _Places) -> int:
    """Returns the place of a response that is not in a half: the largest number of the type."""
    return int(np.iinfo(places.dtype).max)


def _blocks(
    rewards: NDArray[np.float64],
    lengths: NDArray[np.int64],
    n: NDArray[np.int64],
    pairing: Pairing,
    draws: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> Iterator[_Block]:
    """Makes blocks of prompts whose numbers of scored responses differ by a factor of two at most."""
    starts = np.cumsum(n) - n
    doublings = np.where(n >= FEWEST_TO_HALVE, np.ceil(np.log2(np.maximum(n, 1))), 0)
    for size in np.unique(doublings[doublings > 0]):
        prompts = np.flatnonzero(doublings == size)
        prompts = prompts[np.argsort(n[prompts], kind="stable")]
        count = n[prompts]
        places = np.arange(count.max())
        padded = places >= count[:, None]
        rows = np.where(padded, 0, starts[prompts][:, None] + places)
        ordered = np.argsort(np.where(padded, np.inf, rewards[rows]), axis=1, kind="stable")
        mixed = np.argsort(np.where(padded, np.inf, rng.random(padded.shape)), axis=1)
        rows = np.take_along_axis(rows, ordered, axis=1)
        yield _Block(
            prompts,
            count,
            np.ascontiguousarray(rewards[rows].T),
            np.ascontiguousarray(lengths[rows].T),
            # a random order of the places is a random order of the responses; padding stays at the end
            np.ascontiguousarray(mixed.T.astype(np.min_scalar_type(len(places)))),
            pairing,
            None if draws is None else draws[prompts],
        )
