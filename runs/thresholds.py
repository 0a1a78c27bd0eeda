"""thresholds.json: cuts with what they were fitted to, so that they are never applied to something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evo.errors import FittestError
from evo.records import Thresholds


def thresholds_record(cuts: Thresholds, *, n: int | None, length_unit: str, reward_id: str) -> dict[str, Any]:
    """The content of thresholds.json; `n`, the responses per prompt, is null when prompts differ in it."""
    return {
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


def load_thresholds(path: Path, *, reward_id: str, length_unit: str) -> tuple[Thresholds, int | None]:
    """Cuts of an earlier run or filter, and the number of responses per prompt that they were fitted to.

    Raises:
        FittestError: unreadable, or fitted to another reward or length unit.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        min_reward, min_length, max_gap = (
            None if record[name] is None else float(record[name]) for name in ("min_reward", "min_length", "max_gap")
        )
        fitted = {"reward_id": record["reward_id"], "length_unit": record["length_unit"]}
        n = record["n"]
    except FileNotFoundError:
        raise FittestError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FittestError(f"{path}: is not a thresholds.json ({type(error).__name__}: {error})") from None
    for name, here in (("reward_id", reward_id), ("length_unit", length_unit)):
        if fitted[name] != here:
            raise FittestError(f"{path}: its cuts are for {name} {fitted[name]!r}, here it is {here!r}")
    return Thresholds("absolute", min_reward, min_length, max_gap), n
