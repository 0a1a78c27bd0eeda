"""thresholds.json: cuts with what they were fitted to, so that they are never applied to something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evo.errors import FittestError
from evo.records import METRICS, MetricName, Range, Thresholds
from fitness.pairing import BEST_WORST
from operators.policies import narrowest


@dataclass(frozen=True, slots=True)
class FittedThresholds:
    """Cuts of an earlier run or filter; `n` responses per prompt fitted them, None where prompts differed in it."""

    thresholds: Thresholds
    n: int | None

    def narrowed(self, bounds: Mapping[MetricName, Range]) -> FittedThresholds:
        """The same cuts with bounds beside them; where a metric has both, the narrower end counts."""
        return replace(self, thresholds=replace(self.thresholds, cuts=narrowest(self.thresholds.cuts, bounds)))


def thresholds_record(
    cuts: Thresholds,
    *,
    n: int | None,
    length_unit: str,
    reward_id: str,
    pairing: str = BEST_WORST.name,
    race_confidence: float | None = None,
) -> dict[str, Any]:
    """The content of thresholds.json.

    `pairing`, `race_confidence` and `cuts` (metric → [low, high]) stand there only where they say something that the
    other keys do not: another pairing than best-worst, a race that may have dropped prompts wrongly, further cuts.
    """
    record: dict[str, Any] = {
        "schema": 1,
        "policy": cuts.policy,
        "quantile": cuts.quantile,
        "n": n,
        "length_unit": length_unit,
        "reward_id": reward_id,
        "prompts_fitted": cuts.prompts_fitted,
        "min_reward": cuts.min_reward,
        "min_length": cuts.min_length,
        "max_gap": cuts.max_gap,
    }
    usual = {"m1": Range(low=cuts.min_reward), "m2": Range(low=cuts.min_length), "m3": Range(high=cuts.max_gap)}
    if any(ends != usual.get(name) for name, ends in cuts.cuts.items()):
        record["cuts"] = {name: list(ends) for name, ends in cuts.cuts.items()}
    if pairing != BEST_WORST.name:
        record["pairing"] = pairing
    if race_confidence is not None:
        record["race_confidence"] = race_confidence
    return record


def load_thresholds(path: Path, *, reward_id: str, length_unit: str, pairing: str) -> FittedThresholds:
    """Cuts of an earlier run or filter.

    Raises:
        FittestError: unreadable, or fitted to another reward, length unit or pairing.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        ends = _ends(record)
        fitted = {
            "reward_id": record["reward_id"],
            "length_unit": record["length_unit"],
            "pairing": record.get("pairing", BEST_WORST.name),
        }
        n = record["n"]
    except FileNotFoundError:
        raise FittestError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FittestError(f"{path}: is not a thresholds.json ({type(error).__name__}: {error})") from None
    for name, here in (("reward_id", reward_id), ("length_unit", length_unit), ("pairing", pairing)):
        if fitted[name] != here:
            raise FittestError(f"{path}: its cuts are for {name} {fitted[name]!r}, here it is {here!r}")
    cuts = {name: ends[name] for name in METRICS if ends.get(name, Range()) != Range()}
    if not cuts:
        raise FittestError(f"{path}: holds no cuts; policy {record.get('policy')!r} leaves none to be used again")
    return FittedThresholds(Thresholds("absolute", cuts), n)


def _ends(record: dict[str, Any]) -> dict[str, Range]:
    """The range of each metric in a record."""
    plain = {"m1": (record["min_reward"], None), "m2": (record["min_length"], None), "m3": (None, record["max_gap"])}
    return {
        name: Range(*(None if end is None else float(end) for end in ends))
        for name, ends in {**plain, **record.get("cuts", {})}.items()
    }
