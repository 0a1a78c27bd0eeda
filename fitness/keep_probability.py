"""Estimates how likely each prompt is kept when it is answered again, calibrated on halves of its responses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import MetricName
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.halves import FEWEST_TO_HALVE
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.pairing import BEST_WORST, Pairing
from fittest.fitness.response_model import ResponseModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.fitness.repeatability import Keep

FEWEST_PROMPTS = 5
"""With fewer prompts there is nothing to shrink towards."""

_SPLITS = 4
"""How many splits the calibration is learnt from; each serves in both directions."""

_CALIBRATION_ROWS = 20_000
"""The calibration has two parameters, for which so many responses are plenty."""

_DRAWS = (50, 150)
_SIMULATED = 1_000_000
"""Simulated draws of a table: at most the second number, fewer of a large table, but never below the first."""

_LEAST_CHANCE = 1e-9
_STEPS = 30
_BISECTIONS = 60
_FURTHEST = 30.0

_UNFORESEEN = 0.1
"""The share of prompts whose fresh draws the model knows nothing of: they are kept as often as any other prompt.

Real answers have outliers that a few answers of the same prompt do not foretell.
"""

_PRIOR = (1.0, 0.5)
"""Standard deviations of the calibration's shift and of its slope, about 0 and 1: with few prompts it hardly moves."""


def why_no_probability(keep: Keep | str, metrics: Collection[MetricName], n: NDArray[np.int64]) -> str | None:
    """Returns why no prompt of a table has a keep_probability, or None where there may be some.

    Args:
        keep: the rule that rejects prompts, or why there is none.
        metrics: the metrics that the rule looks at.
        n: the number of scored responses of each prompt, shape (prompts,).
    """
    if isinstance(keep, str):
        return keep
    if unknown := sorted({"average_reward", "reward_std"} & set(metrics)):
        return f"the model behind keep_probability does not simulate {' and '.join(unknown)}"
    if (n >= 2).sum() < FEWEST_PROMPTS:
        return f"fewer than {FEWEST_PROMPTS} prompts have two scored responses"
    return None


def keep_probability(
    rewards: NDArray[np.float64],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    keep: Keep,
    pairing: Pairing = BEST_WORST,
    draws: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Returns the chance that each prompt is kept on a fresh draw of the whole table, with as many responses as here.

    A `ResponseModel` of the table simulates fresh draws, with cuts fitted to each. How far its chances can be trusted
    is learnt from the table: from one half of the responses of each prompt the model predicts which prompts are kept
    on the other half, and a logistic regression of the outcome on the prediction corrects it (Platt scaling, with a
    small share of prompts that the model knows nothing of). At last all chances are shifted alike, so that on average
    as many prompts are kept as are now: this draw and a fresh one do not differ in that.

    Args:
        rewards: the rewards of all responses, prompt after prompt; one that is not finite is missing, shape
            (responses,).
        lengths: the length of each response, shape (responses,).
        counts: the number of responses of each prompt, shape (prompts,).
        keep: the rule that rejects prompts.
        pairing: says which response is the rejected one.
        draws: a number in [0, 1) for each prompt, from `pairing.draws`; None for best-worst pairs.
        seed: the seed of all draws.

    Returns:
        Probabilities, shape (prompts,); NaN for a prompt with fewer than two scored responses, and where
        `why_no_probability` says so.
    """
    table = _Table.scored(rewards, lengths, counts, pairing, draws)
    found = np.full(len(counts), np.nan)
    if len(table.counts) < FEWEST_PROMPTS:
        return found
    seeds = SeedTree(seed)
    chances = table.chances(keep, seeds.generator(Stream.HALVES, 0, 0))
    least = 0.5 / len(table.counts)
    now = min(max(float(table.kept(keep).mean()), least), 1 - least)
    shift, slope = _calibration(table, keep, now, seeds)
    found[table.prompts] = _mixed(_shifted(shift + slope * _logit(chances), now), now)
    return found


@dataclass(frozen=True)
class _Table:
    """Holds the scored responses of the prompts that have two or more.

    Attributes:
        prompts: the positions of these prompts in the table that was given, shape (prompts,).
        rewards: their rewards, prompt after prompt, shape (responses,).
        lengths: the length of each response, shape (responses,).
        counts: the number of responses of each prompt, shape (prompts,).
        pairing: says which response is the rejected one.
        draws: the numbers that decide it; None for best-worst pairs.
    """

    prompts: NDArray[np.int64]
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    pairing: Pairing
    draws: NDArray[np.float64] | None

    @classmethod
    def scored(
        cls,
        rewards: NDArray[np.float64],
        lengths: NDArray[np.int64],
        counts: NDArray[np.int64],
        pairing: Pairing,
        draws: NDArray[np.float64] | None,
    ) -> _Table:
        """Returns the table without missing rewards and prompts with too few."""
        there = np.isfinite(rewards)
        owner = np.repeat(np.arange(len(counts)), counts)
        n = np.bincount(owner[there], minlength=len(counts))
        there &= n[owner] >= 2
        prompts = np.flatnonzero(n >= 2)
        chosen = None if draws is None else draws[prompts]
        return cls(prompts, rewards[there], lengths[there], n[prompts], pairing, chosen)

    def kept(self, keep: Keep) -> NDArray[np.bool_]:
        """Tells which prompts are kept, shape (prompts,)."""
        return keep(
            rip_metrics(self.rewards, self.lengths, self.counts, pairing=self.pairing, draws=self.draws).values
        )

    def chances(self, keep: Keep, rng: np.random.Generator) -> NDArray[np.float64]:
        """Returns the share of simulated draws on which each prompt is kept, in (0, 1), shape (prompts,)."""
        fewest, most = _DRAWS
        times = int(np.clip(_SIMULATED // len(self.counts), fewest, most))
        model = ResponseModel(self.rewards, self.lengths, self.counts)
        share = model.kept(keep, times=times, rng=rng, pairing=self.pairing, draws=self.draws)
        # what was never seen in so many draws is not impossible
        return (share * times + 0.5) / (times + 1)

    def of(self, chosen: NDArray[np.int64]) -> _Table:
        """Returns the table of some of its prompts."""
        wanted = np.zeros(len(self.counts), dtype=np.bool_)
        wanted[chosen] = True
        rows = np.repeat(wanted, self.counts)
        draws = None if self.draws is None else self.draws[wanted]
        return _Table(
            self.prompts[wanted], self.rewards[rows], self.lengths[rows], self.counts[wanted], self.pairing, draws
        )

    def halves(self, rng: np.random.Generator) -> tuple[_Table, _Table]:
        """Returns two tables with half the responses of each prompt, all of which must have enough of them."""
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.lexsort((rng.random(len(owner)), owner))
        place = np.empty(len(owner), dtype=np.int64)
        place[order] = np.arange(len(owner))
        place -= np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        half = np.repeat(self.counts // 2, self.counts)
        one, other = (
            _Table(self.prompts, self.rewards[rows], self.lengths[rows], self.counts // 2, self.pairing, self.draws)
            for rows in (place < half, (place >= half) & (place < 2 * half))
        )
        return one, other


def _calibration(table: _Table, keep: Keep, now: float, seeds: SeedTree) -> tuple[float, float]:
    """Returns shift and slope by which the log-odds of the model are corrected, learnt between halves."""
    rng = seeds.generator(Stream.HALVES, 1, 0)
    order = rng.permutation(np.flatnonzero(table.counts >= FEWEST_TO_HALVE))
    table = table.of(order[np.cumsum(table.counts[order]) <= _CALIBRATION_ROWS])
    if len(table.counts) < FEWEST_PROMPTS:
        return 0.0, 1.0
    odds, outcomes = [], []
    for split in range(_SPLITS):
        rng = seeds.generator(Stream.HALVES, 2, split)
        one, other = table.halves(rng)
        for fitted, fresh in ((one, other), (other, one)):
            odds.append(_logit(fitted.chances(keep, rng)))
            outcomes.append(fresh.kept(keep))
    # all splits are of the same prompts, so together they tell no more than the two halves of one
    return _platt(np.concatenate(odds), np.concatenate(outcomes), now, weight=1 / _SPLITS)


def _platt(
    odds: NDArray[np.float64], outcomes: NDArray[np.bool_], now: float, *, weight: float
) -> tuple[float, float]:
    """Fits outcome ~ mixed(logistic(shift + slope × odds)) by Fisher's scoring, with a normal prior on both."""
    columns = np.stack([np.ones_like(odds), odds])
    expected, precision = np.array([0.0, 1.0]), 1 / np.array(_PRIOR) ** 2
    found = expected.copy()
    for _ in range(_STEPS):
        known = np.clip(_logistic(found @ columns), _LEAST_CHANCE, 1 - _LEAST_CHANCE)
        chance, rise = _mixed(known, now), (1 - _UNFORESEEN) * known * (1 - known)
        change = weight * rise / (chance * (1 - chance))
        gradient = columns @ (change * (outcomes - chance)) - precision * (found - expected)
        information = (columns * change * rise) @ columns.T + np.diag(precision)
        found = found + np.clip(np.linalg.solve(information, gradient), -1, 1)
    return float(found[0]), float(found[1])


def _shifted(odds: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Returns the chances of log-odds that are shifted alike, so that their mean is the given one."""
    low, high = -_FURTHEST - odds.max(), _FURTHEST - odds.min()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _logistic(odds + middle).mean() < mean else (low, middle)
    return _logistic(odds + (low + high) / 2)


def _mixed(chances: NDArray[np.float64], now: float) -> NDArray[np.float64]:
    """Returns chances of which the unforeseen share is that of any prompt."""
    return (1 - _UNFORESEEN) * chances + _UNFORESEEN * now


def _logit(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(chances / (1 - chances))


def _logistic(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(odds / 2))
