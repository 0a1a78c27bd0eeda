"""Racing: a prompt is sampled no further once it can no longer survive (docs/design/racing.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

_GRID = 24
"""The posterior of mean and spread has this many points on each axis."""


@dataclass(frozen=True, slots=True)
class Race:
    """Holds the rules for one prompt: responses are drawn `round_size` at a time, and after each round it may be out.

    m1 can only fall and m3 can only grow with more responses, so a prompt below `min_reward` or above `max_gap` has
    failed whatever comes; eliminating it there changes no survivor. With `confidence`, it is also out when its chance
    to survive, if rewards were normally distributed, is below 1 − confidence: cheaper, no longer exact.

    Attributes:
        n: the number of responses of a prompt that is sampled fully.
        round_size: the number of responses between two decisions.
        min_reward: τ1, or None when m1 does not cut from below.
        max_gap: τ3, or None when m3 does not cut from above.
        confidence: the confidence of the inexact rule, in (0, 1), or None without that rule.
    """

    n: int
    round_size: int
    min_reward: float | None
    max_gap: float | None
    confidence: float | None = None

    def elimination(self, rewards: Sequence[float], drawn: int) -> Elimination | None:
        """Returns why the prompt is out of the race after `drawn` responses, or None while it may survive.

        Args:
            rewards: the rewards of those responses that have one.
            drawn: the number of responses drawn so far; missing rewards count.
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
        """Returns the chance that all responses still to come keep m1 and m3 inside their cuts, if rewards are normal.

        Each of them must fall between the larger of τ1 and (best so far − τ3), and (worst so far + τ3). They share one
        mean and spread, which are not known; the chance is averaged over what the rewards so far say of both (the
        posterior under Jeffreys' prior).

        Args:
            rewards: the rewards so far.
            left: the number of responses still to come.

        Returns:
            1 with fewer than three rewards, or if none of them differ: nothing is claimed then.
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
        """Returns the ends between which a further reward fails nothing; they may be infinite."""
        low = -np.inf if self.min_reward is None else self.min_reward
        if self.max_gap is None:
            return low, np.inf
        return max(low, max(rewards) - self.max_gap), min(rewards) + self.max_gap


@cache
def _posterior(k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns equally likely standard deviations, in units of the one seen, and means, in units of the former."""
    from scipy.special import chdtri, ndtri

    middles = (np.arange(_GRID) + 0.5) / _GRID
    return np.sqrt((k - 1) / chdtri(k - 1, middles)), ndtri(middles) / np.sqrt(k)


@dataclass(frozen=True, slots=True)
class RaceTrack:
    """Makes the rules for each prompt of a run from the cuts that are known when it is sampled.

    Attributes:
        n: the number of responses per prompt.
        round_size: the number of responses between two decisions.
        known: gives the cuts of a generation, or None if they are not known beforehand.
        metrics: gives the metrics that count in a generation.
        confidence: the confidence of the inexact rule, or None without that rule.
        audit: the share of offspring slots that are sampled fully whatever the race says, so that something is known
            of all that lose; with `confidence`, a share of all prompts, which measures what that rule loses.
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
        """Returns the rules for one prompt, or None if it cannot be raced."""
        cuts = self.known(prompt.birth.generation)
        race = None if cuts is None else self.against(cuts, prompt.birth.generation)
        return race if race is None else replace(race, confidence=self.confidence)

    def against(self, cuts: Thresholds, generation: int) -> Race | None:
        """Returns exact rules for a draw that these cuts decide about, or None if it cannot be raced."""
        if not 0 < self.round_size < self.n:
            return None
        ranges = cuts.ranges(self.metrics(generation))
        low, high = ranges.get("m1", Range()).low, ranges.get("m3", Range()).high
        return None if low is None and high is None else Race(self.n, self.round_size, low, high)

    def audited(self, prompt: Prompt) -> bool:
        """Tells whether a prompt is sampled fully whatever the race says.

        Offspring are chosen by seed and slot, before anything is known of them. With the confidence rule, which is
        wrong on some prompts of the pool as well, all prompts are chosen by seed and text.
        """
        birth = prompt.birth
        if not self.audit or (self.confidence is None and not birth.generation):
            return False
        place = (birth.generation, birth.slot) if self.confidence is None else (int(prompt.id, 16),)
        return self.seeds.generator(Stream.AUDIT, *place).random() < self.audit
