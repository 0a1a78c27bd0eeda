"""Reads and writes thresholds.json: cuts and what they were fitted to, so that they are used for nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS, MetricName, Range, Thresholds
from fittest.fitness.pairing import BEST_WORST
from fittest.runs.output.together import settle


@dataclass(frozen=True, slots=True)
class FittedThresholds:
    """Holds the cuts of an earlier run or filter.

    Attributes:
        cuts: the range of each metric that is cut.
        n: the number of responses per prompt that they were fitted to; None if prompts differed in it.
        digest: 16 hex digits over the file that they were read from.
    """

    cuts: Mapping[MetricName, Range]
    n: int | None
    digest: str


class _ThresholdsFile(BaseModel):
    """Declares the keys that a thresholds.json must have; its other keys are for people."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    # "schema" itself would shadow a method of BaseModel
    version: Literal[1] = Field(alias="schema")
    reward_id: str
    length_unit: str
    pairing: str = BEST_WORST.name
    n: int | None
    min_reward: float | None
    min_length: float | None
    max_gap: float | None
    cuts: dict[MetricName, tuple[float | None, float | None]] = {}
    band: dict[str, Any] = {}

    @property
    def ranges(self) -> dict[MetricName, Range]:
        """Returns the range of each metric that is cut."""
        plain: dict[MetricName, tuple[float | None, float | None]] = {
            "m1": (self.min_reward, None), "m2": (self.min_length, None), "m3": (None, self.max_gap),
        }  # fmt: skip
        given = {**plain, **self.cuts}
        return {name: Range(*given[name]) for name in METRICS if given.get(name, (None, None)) != (None, None)}


def thresholds_record(
    cuts: Thresholds,
    *,
    n: int | None,
    length_unit: str,
    reward_id: str,
    pairing: str = BEST_WORST.name,
    race_confidence: float | None = None,
) -> dict[str, Any]:
    """Returns the content of thresholds.json.

    Args:
        cuts: the cuts; ranges that min_reward, min_length and max_gap cannot express are written as `cuts`.
        n: the number of responses per prompt; None if prompts differ in it.
        length_unit: the unit of m2.
        reward_id: the name of the reward.
        pairing: how the rejected response is chosen; it is written only if it is not best-worst.
        race_confidence: the confidence of a race that may have dropped prompts wrongly; None leaves it out.
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
    ranges = cuts.ranges()
    if any(ends != usual.get(name) for name, ends in ranges.items()):
        record["cuts"] = {name: list(ends) for name, ends in ranges.items()}
    if pairing != BEST_WORST.name:
        record["pairing"] = pairing
    if race_confidence is not None:
        record["race_confidence"] = race_confidence
    return record


def load_thresholds(path: Path, *, reward_id: str, length_unit: str, pairing: str) -> FittedThresholds:
    """Returns the cuts of an earlier run or filter.

    Args:
        path: the file.
        reward_id: the reward that the cuts must have been fitted to.
        length_unit: the length unit that they must have been fitted to.
        pairing: the pairing that they must have been fitted to.

    Raises:
        FittestError: the file cannot be read, or its cuts were fitted to something else.
    """
    settle(path.parent)
    try:
        content = path.read_bytes()
        record = _ThresholdsFile.model_validate_json(content)
    except FileNotFoundError:
        raise FittestError(f"{path}: no such file") from None
    except OSError as error:
        raise FittestError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FittestError(f"{path}: is not a thresholds.json ({where}: {first['msg']})") from None
    for name, here in (("reward_id", reward_id), ("length_unit", length_unit), ("pairing", pairing)):
        if getattr(record, name) != here:
            raise FittestError(f"{path}: its cuts are for {name} {getattr(record, name)!r}, here it is {here!r}")
    if "pass_at" in record.band:
        raise FittestError(f"{path}: holds a band of pass rates, which are no metric; give --keep-band and --pass-at")
    if not record.ranges:
        raise FittestError(f"{path}: holds no cuts to be used again")
    # the file is opened once: cuts and digest are of the same content, even if another run writes the file meanwhile
    return FittedThresholds(record.ranges, record.n, hashlib.sha256(content).hexdigest()[:16])
