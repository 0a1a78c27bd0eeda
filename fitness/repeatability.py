"""Measures how far metrics and survival repeat themselves when the same prompts are answered again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.records import RIP_METRICS, MetricName
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.halves import FEWEST_TO_HALVE, HalfDraws
from fittest.fitness.intervals import wilson
from fittest.fitness.intraclass import mean_squares, share_between
from fittest.fitness.pairing import BEST_WORST, Pairing

if TYPE_CHECKING:
    from numpy.typing import NDArray

Keep = Callable[["NDArray[np.float64]"], "NDArray[np.bool_]"]
"""A rejection rule fits its cuts to the metrics of a whole table and tells which prompts it keeps.

The metrics are in the order of `METRICS`, shape (prompts, len(METRICS)), NaN for a prompt without metrics.
"""

SPLITS = 50
"""Each split gives two half-samples (complementary pairs, Shah and Samworth, JRSS B 75, 2013), so there are 100."""


@dataclass(frozen=True)
class Stability:
    """Says how far a table of responses repeats itself.

    Attributes:
        repeatability: the content of `repeatability` in summary.json.
        keep_share: the share of half-samples on which each prompt is kept; NaN where halves have no metrics, and
            everywhere without a rule that can be applied to them, shape (prompts,).
    """

    repeatability: dict[str, Any]
    keep_share: NDArray[np.float64]


def repeatability(
    rewards: NDArray[np.float64],
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    keep: Keep | str,
    metrics: Collection[MetricName] = RIP_METRICS,
    pairing: Pairing = BEST_WORST,
    draws: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the content of `repeatability` in summary.json; see `stability`.

    Args:
        rewards: the rewards of all responses, prompt after prompt; one that is not finite is missing, shape
            (responses,).
        lengths: the length of each response, shape (responses,).
        counts: the number of responses of each prompt, shape (prompts,).
        keep: the rule that rejects prompts, or why there is none that could be applied to a half.
        metrics: the metrics that the rule looks at.
        pairing: says which response is the rejected one.
        draws: a number in [0, 1) for each prompt, from `pairing.draws`; None for best-worst pairs.
        seed: the seed of all splits.
    """
    rng = SeedTree(seed).generator(Stream.HALVES)
    halves = HalfDraws(rewards, lengths, counts, pairing=pairing, draws=draws, metrics=metrics, rng=rng)
    return stability(halves, keep, seed=seed).repeatability


def stability(halves: HalfDraws, keep: Keep | str, *, seed: int = 0) -> Stability:
    """Returns the stability of one rule; see `stabilities`."""
    return stabilities(halves, [keep], seed=seed)[0]


def stabilities(halves: HalfDraws, rules: Sequence[Keep | str], *, seed: int = 0) -> list[Stability]:
    """Draws half-samples of a table, and compares the two halves of each split.

    The intraclass correlation is that of single half draws, ICC(1): the share of the variance of a metric that is
    between prompts (Shrout and Fleiss, Psychological Bulletin 86, 1979). Both halves are cut by cuts fitted to
    themselves, so survival on one half and on the other differ by chance alone (stability selection: Meinshausen and
    Bühlmann, JRSS B 72, 2010).

    Args:
        halves: the responses.
        rules: the rules that reject prompts, or for each why it cannot be applied to a half.
        seed: the seed of all splits.

    Returns:
        What each rule does, in their order.
    """
    seeds, enough = SeedTree(seed), halves.enough
    if enough.sum() < 2:
        reason = f"fewer than two prompts have {FEWEST_TO_HALVE} scored responses, which halves with metrics need"
        empty: dict[str, Any] = dict.fromkeys((*RIP_METRICS, "survive"))
        nothing = Stability({**empty, "notes": dict.fromkeys(empty, reason)}, np.full(len(enough), np.nan))
        return [nothing] * len(rules)
    correlation, survivals = _Correlation(), [_Survival(rule, enough) for rule in rules]
    for split in range(SPLITS):
        one, other = halves.split(seeds.generator(Stream.HALVES, split))
        correlation.add(one[enough, :3], other[enough, :3])
        for survival in survivals:
            survival.add(one, other)
    return [survival.result(correlation.record()) for survival in survivals]


class _Correlation:
    """Adds up the mean squares between and within prompts over many pairs of halves."""

    def __init__(self) -> None:
        self._scale: NDArray[np.float64] | None = None
        self._between = np.zeros(len(RIP_METRICS))
        self._within = np.zeros(len(RIP_METRICS))

    def add(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Adds a pair of halves, each of shape (prompts, 3)."""
        if self._scale is None:
            # squares of very large rewards would overflow
            self._scale = np.maximum(np.abs(one), np.abs(other)).max(axis=0)
            self._scale[self._scale == 0.0] = 1.0
        between, within = mean_squares(np.stack([one, other], axis=1) / self._scale)
        self._between += between
        self._within += within

    def record(self) -> dict[str, Any]:
        """Returns the intraclass correlation of each metric; None for one whose values are all equal."""
        return {
            name: share_between(between, within)
            for name, between, within in zip(RIP_METRICS, self._between.tolist(), self._within.tolist(), strict=True)
        }


class _Survival:
    """Counts on how many half-samples each prompt is kept by a rule.

    Args:
        keep: the rule, or why it cannot be applied to a half.
        enough: whether each prompt has halves, shape (prompts,).
    """

    def __init__(self, keep: Keep | str, enough: NDArray[np.bool_]) -> None:
        self._keep = keep
        self._enough = enough
        self._kept, self._twice = (np.zeros(len(enough), dtype=np.int64) for _ in range(2))

    def add(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Adds a pair of halves, each of shape (prompts, len(METRICS))."""
        if not isinstance(self._keep, str):
            on_one, on_other = self._keep(one), self._keep(other)
            self._kept += on_one.astype(np.int64) + on_other
            self._twice += on_one & on_other

    def result(self, correlations: dict[str, Any]) -> Stability:
        """Returns what was counted, beside the correlation of each metric."""
        again = self._again()
        notes: dict[str, str] = {name: "all values are equal" for name in RIP_METRICS if correlations[name] is None}
        record = {**correlations, "survive": None if isinstance(again, str) else again}
        if isinstance(again, str):
            notes["survive"] = again
        if notes:
            record["notes"] = notes
        known = self._enough & (not isinstance(self._keep, str))
        return Stability(record, np.where(known, self._kept / (2 * SPLITS), np.nan))

    def _again(self) -> dict[str, Any] | str:
        """Returns the share of those kept on one half that are kept on the other, or why there is none."""
        if isinstance(self._keep, str):
            return self._keep
        total = int(self._kept.sum())
        if not total:
            return "no prompt is kept on any half-sample"
        share = 2 * int(self._twice.sum()) / total
        # all splits divide the responses of the same prompts, so there are no more trials than one half keeps prompts
        low, high = wilson(share, total / (2 * SPLITS))
        return {"share": share, "low": low, "high": high, "splits": SPLITS}
