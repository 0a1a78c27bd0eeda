"""Keeps prompts that a policy answers well now and then: the ones from which reinforcement learning learns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.errors import FittestError
from fittest.evo.records import MetricName, Range, Thresholds
from fittest.runs.config.selection import ranges_of
from fittest.runs.filters.cuts import Cuts
from fittest.runs.filters.filtered import TOO_FEW, Filtered
from fittest.runs.filters.scoring import ScoredTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBER = r"[+-]?(?:inf|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_ENDS = re.compile(rf"({_NUMBER})-({_NUMBER})", re.I | re.A)
_PASS_RATE = "pass_rate"

_COMPUTED = ("average_reward", "reward_std")
"""Measures that rounding can move past an end: the mean of 0.1, 0.2 and 0.3 may come out below 0.2."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """Says which prompts are neither too easy nor too hard; an infinite end is open.

    Attributes:
        keep: the least and the largest mean reward, or pass rate with `pass_at`; None does not cut.
        pass_at: the least reward of a response that passes. The pass rate is the share of a prompt's scored responses
            that pass.
        spread: the least and the largest standard deviation of the rewards; None does not cut.
    """

    keep: tuple[float, float] | None = None
    pass_at: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def measure(self) -> str:
        """Returns the name of what `keep` is about."""
        return "average_reward" if self.pass_at is None else _PASS_RATE

    @property
    def record(self) -> dict[str, Any]:
        """Returns the band for thresholds.json: the ends of each measure, and the least reward that passes."""
        ends = {self.measure: self.keep, "reward_std": self.spread}
        record: dict[str, Any] = {name: list(_range(given)) for name, given in ends.items() if given is not None}
        return record if self.pass_at is None else {**record, "pass_at": self.pass_at}

    def check(self, cuts: Cuts) -> None:
        """Checks that the band can be used.

        Args:
            cuts: the cuts beside it.

        Raises:
            FittestError: its ends contradict each other, or the cuts do not go with it.
        """
        if cuts != Cuts(at_least=cuts.at_least, at_most=cuts.at_most):
            raise FittestError("a band takes the place of RIP's cuts; only --at-least and --at-most go with it")
        if self.keep is None and self.pass_at is not None:
            raise FittestError("--pass-at says what --keep-band measures; give both")
        if self.keep is None and self.spread is None:
            raise FittestError("a band has no ends; give --keep-band or --keep-spread")
        for option, ends in (("--keep-band", self.keep), ("--keep-spread", self.spread)):
            if ends is not None and not ends[0] <= ends[1]:
                raise FittestError(f"{option}: the low end {ends[0]:g} is above the high end {ends[1]:g}")
        if self.pass_at is not None and not math.isfinite(self.pass_at):
            raise FittestError("--pass-at must be a finite number")
        rates = self.keep if self.keep is not None and self.pass_at is not None else ()
        if wrong := [end for end in rates if math.isfinite(end) and not 0.0 <= end <= 1.0]:
            raise FittestError(f"--keep-band: a pass rate lies between 0 and 1, found {wrong[0]:g}")


def ends_of(option: str, given: str) -> tuple[float, float]:
    """Reads the ends of a band, such as 0.2-0.8, -1.5--0.5 or 0.1-inf.

    Args:
        option: the option, for the message.
        given: its value.

    Raises:
        FittestError: these are not two numbers.
    """
    found = _ENDS.fullmatch(given.strip())
    if found is None:
        raise FittestError(f"{option} {given}: write it as LOW-HIGH, such as 0.2-0.8")
    return float(found[1]), float(found[2])


def filter_by_band(scored: ScoredTable, band: Band, cuts: Cuts) -> Filtered:
    """Keeps each prompt whose rewards lie inside a band; the ends belong to it.

    Args:
        scored: the responses with their metrics.
        band: the band; `check` has accepted it.
        cuts: bounds that hold beside it.
    """
    ranges = _ranges_of_metrics(band, cuts)
    measures: dict[str, tuple[NDArray[np.float64], Range]] = {}
    if band.keep is not None and band.pass_at is not None:
        measures[_PASS_RATE] = pass_rates(scored, band.pass_at), _range(band.keep)
    measures |= {name: (scored.rip.of(name), ends) for name, ends in ranges.items()}
    noise = _noise(scored)
    failed = {
        name: _outside(values, ends, noise if name in _COMPUTED else np.zeros(len(noise)))
        for name, (values, ends) in measures.items()
    }
    kept = scored.has_metrics.copy()
    for low, high in failed.values():
        kept &= ~(low | high)
    first = band.measure if band.keep is not None else "reward_std"
    uniform = _uniform(scored, band.pass_at)
    return Filtered(
        kept,
        list(_reasons(scored.has_metrics, failed)),
        [tuple(name for name, (low, high) in failed.items() if low[i] or high[i]) for i in range(len(kept))],
        Thresholds("band", ranges),
        measures[first][0],
        warnings=_warnings(kept, uniform),
        band=band.record,
        dynamic_sampling=_dynamic_sampling(scored, kept, uniform, band.pass_at),
    )


def pass_rates(scored: ScoredTable, pass_at: float) -> NDArray[np.float64]:
    """Returns the share of each prompt's scored responses whose reward is `pass_at` or more, shape (prompts,).

    Args:
        scored: the responses with their rewards.
        pass_at: the least reward that passes.

    Returns:
        Shares in [0, 1]; NaN for a prompt without a scored response.
    """
    passed = np.add.reduceat((scored.rewards >= pass_at).astype(np.int64), scored.table.starts)
    return np.where(scored.rip.n > 0, passed / np.maximum(scored.rip.n, 1), math.nan)


def _ranges_of_metrics(band: Band, cuts: Cuts) -> dict[MetricName, Range]:
    ends: dict[MetricName, Range] = {}
    if band.keep is not None and band.pass_at is None:
        ends["average_reward"] = _range(band.keep)
    if band.spread is not None:
        ends["reward_std"] = _range(band.spread)
    return Thresholds("band", ends, ranges_of(cuts.at_least, cuts.at_most)).ranges()


def _range(ends: tuple[float, float]) -> Range:
    low, high = ends
    return Range(low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def _noise(scored: ScoredTable) -> NDArray[np.float64]:
    """Returns how far rounding can move the mean and the spread of each prompt's rewards, shape (prompts,)."""
    largest = np.fmax.reduceat(np.abs(scored.rewards), scored.table.starts)
    moved = scored.rip.n * np.finfo(np.float64).eps * largest
    # mean and spread of equal rewards are exact
    return np.where(scored.rip.of("reward_std") == 0.0, 0.0, moved)


def _outside(
    values: NDArray[np.float64], ends: Range, noise: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tells which values are too low, and which are too high, by more than rounding; NaN is both."""
    nowhere = np.zeros(len(values), dtype=bool)
    low = nowhere if ends.low is None else ~(values + noise >= ends.low)
    high = nowhere if ends.high is None else ~(values - noise <= ends.high)
    return low, high


def _reasons(
    enough: NDArray[np.bool_], failed: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> Iterator[str]:
    for prompt, scored in enumerate(enough.tolist()):
        low = [f"{name} too low" for name, (below, _) in failed.items() if below[prompt]]
        high = [f"{name} too high" for name, (_, above) in failed.items() if above[prompt]]
        yield ", ".join(low + high) if scored else TOO_FEW


def _uniform(scored: ScoredTable, pass_at: float | None) -> NDArray[np.bool_]:
    """Tells which prompts with metrics give no signal: all their rewards are equal, or all pass, or all fail."""
    values = scored.rewards
    if pass_at is not None:
        values = np.where(np.isnan(values), math.nan, (values >= pass_at).astype(np.float64))
    starts = scored.table.starts
    # fmin and fmax pass over NaN, so that a missing reward makes no group differ
    least, most = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return scored.has_metrics & np.equal(least, most)


def _warnings(kept: NDArray[np.bool_], uniform: NDArray[np.bool_]) -> list[str]:
    count = int((kept & uniform).sum())
    if not count:
        return []
    return [f"{count} prompts inside the band have responses that are all worth the same, which teaches nothing"]


def _dynamic_sampling(
    scored: ScoredTable, kept: NDArray[np.bool_], uniform: NDArray[np.bool_], pass_at: float | None
) -> dict[str, Any]:
    """Returns what DAPO's dynamic sampling would have drawn (arXiv 2503.14476, section 3.2).

    It draws prompts with all their responses, and discards those whose responses are all worth the same, until the
    batch is full. The share of such prompts in the table is an unbiased estimate of their share in fresh draws of as
    many responses, which the formula r^n + (1 - r)^n of measured pass rates r is not.
    """
    drawn = scored.has_metrics
    informative = drawn & ~uniform
    prompts, responses = int(drawn.sum()), int(scored.table.counts[drawn].sum())
    used, batch = int(informative.sum()), int(kept.sum())
    expected = batch * prompts / used if used else None
    report: dict[str, Any] = {
        "groups_by": "reward" if pass_at is None else "pass",
        "prompts_drawn": prompts,
        "prompts_kept": used,
        "prompts_discarded": prompts - used,
        "responses_drawn": responses,
        "responses_kept": int(scored.table.counts[informative].sum()),
    }
    if pass_at is not None:
        all_pass = uniform & (pass_rates(scored, pass_at) == 1.0)
        report |= {"all_pass": int(all_pass.sum()), "all_fail": int((uniform & ~all_pass).sum())}
    return report | {
        "batch": batch,
        "expected_prompts": expected,
        "expected_responses": None if expected is None else expected * responses / prompts,
    }
