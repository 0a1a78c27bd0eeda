"""Racing: stop sampling a prompt once it can no longer survive (docs/design/racing.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import Elimination, MetricName, Range
from fittest.evo.seeds import SeedTree, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Thresholds

GRID = 24
"""Points on each axis of the posterior of mean and spread."""


@dataclass(frozen=True, slots=True)
class Race:
    """The rules for one prompt: responses are drawn `round_size` at a time, and after each round it may be out.

    m1 can only fall and m3 can only grow with more responses, so a prompt below `min_reward` or above `max_gap` has
    failed whatever comes; eliminating it there changes no survivor. With `confidence`, it is also out when its chance
    to survive, if rewards were normally distributed, is below 1 − confidence: cheaper, no longer exact.

    Attributes:
        n: responses of a prompt that is sampled fully.
        round_size: responses drawn between two decisions.
        min_reward: τ1, or None when m1 does not cut from below.
        max_gap: τ3, or None when m3 does not cut from above.
        confidence: of the inexact rule, in (0, 1), or None.
    """

    n: int
    round_size: int
    min_reward: float | None
    max_gap: float | None
    confidence: float | None = None

    def elimination(self, rewards: Sequence[float], drawn: int) -> Elimination | None:
        """Returns why the prompt is out of the race after `drawn` responses, or None while it may survive.

        Args:
            rewards: of those of the responses that have one.
            drawn: the number of responses, with those whose reward is missing.
        """
        if not rewards or drawn >= self.n:
            return None
        worst, gap = min(rewards), max(rewards) - min(rewards)
        failed: list[MetricName] = []
        if self.min_reward is not None and worst < self.min_reward:
            failed.append("m1")
        if self.max_gap is not None and gap > self.max_gap:
            failed.append("m3")
        if failed:
            return Elimination("m1" if failed[0] == "m1" else "m3", worst, gap, tuple(failed))
        if self.confidence is not None and self.chance(rewards, self.n - drawn) < 1.0 - self.confidence:
            return Elimination("confidence", worst, gap, ())
        return None

    def chance(self, rewards: Sequence[float], left: int) -> float:
        """The chance that all responses still to come keep m1 and m3 inside their cuts, were rewards normal.

        Each of them must fall between the larger of τ1 and (best so far − τ3), and (worst so far + τ3). They share one
        mean and spread, which are not known; the chance is averaged over what the rewards so far say of both (the
        posterior under Jeffreys' prior). With fewer than three rewards, or none that differ, nothing is claimed: 1.
        """
        from scipy.special import ndtr

        k = len(rewards)
        spread = float(np.std(rewards, ddof=1)) if k >= 3 else 0.0
        if not spread > 0.0:
            return 1.0
        low, high = self.room(rewards)
        scales, shifts = _posterior(k)
        sigma = spread * scales[:, None]
        mu = float(np.mean(rewards)) + sigma * shifts[None, :]
        inside = ndtr((high - mu) / sigma) - ndtr((low - mu) / sigma)
        return float((inside**left).mean())

    def room(self, rewards: Sequence[float]) -> tuple[float, float]:
        """Where a further reward may fall without failing the prompt; the ends may be infinite."""
        low = -np.inf if self.min_reward is None else self.min_reward
        if self.max_gap is None:
            return low, np.inf
        return max(low, max(rewards) - self.max_gap), min(rewards) + self.max_gap


@cache
def _posterior(k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A grid of equally likely standard deviations, in units of that seen, and of means, in units of the former."""
    from scipy.special import chdtri, ndtri

    middles = (np.arange(GRID) + 0.5) / GRID
    return np.sqrt((k - 1) / chdtri(k - 1, middles)), ndtri(middles) / np.sqrt(k)


@dataclass(frozen=True, slots=True)
class RaceTrack:
    """Makes the rules for each prompt of a run from the cuts that are known when it is sampled.

    Attributes:
        n: responses per prompt.
        round_size: responses drawn between two decisions.
        known: the cuts of a generation, or None where they are not known beforehand.
        metrics: the metrics that count in a generation.
        confidence: of the inexact rule, or None.
        audit: share of prompts that are sampled fully whatever the race says, to measure what `confidence` loses.
        seeds: the run's seed tree, which draws the audited prompts.
    """

    n: int
    round_size: int
    known: Callable[[int], Thresholds | None]
    metrics: Callable[[int], Sequence[MetricName]]
    confidence: float | None
    audit: float
    seeds: SeedTree

    def race(self, prompt: Prompt) -> Race | None:
        """The rules for one prompt; None when it cannot be raced."""
        cuts = self.known(prompt.birth.generation)
        if cuts is None or not 0 < self.round_size < self.n:
            return None
        ranges = cuts.ranges(self.metrics(prompt.birth.generation))
        low, high = ranges.get("m1", Range()).low, ranges.get("m3", Range()).high
        if low is None and high is None:
            return None
        return Race(self.n, self.round_size, low, high, self.confidence)

    def audited(self, prompt: Prompt) -> bool:
        """Whether a prompt is sampled fully to check on the confidence rule; a function of seed and prompt."""
        return self.audit > 0 and self.seeds.generator(Stream.AUDIT, int(prompt.id, 16)).random() < self.audit
