"""Small runs to export: survivors as a run writes them, and the responses that they were chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fittest.runs.output.atomic import write_parquet, write_text
from fittest.runs.output.responses import RESPONSE_SCHEMA

TEXTS = pl.List(pl.String)

SYSTEM = "Answer in one sentence."


def survivor(name: str, **changes: object) -> dict[str, Any]:
    """One row of survivors.parquet, as early versions wrote it."""
    return {
        "prompt_id": name, "prompt": f"Prompt {name}?", "generation": 0, "slot": 0, "operator": "pool", "parents": [],
        "exemplars": [], "source": "forum", "licence": "MIT", "chosen": f"good {name}", "rejected": f"bad {name}",
        "chosen_reward": 2.0, "rejected_reward": 1.0, "rejected_length": 5, "reward_gap": 1.0, "diversity": 0.5,
        "n": 8, "in_population": True, **changes,
    }  # fmt: skip


def frame(*survivors: dict[str, Any]) -> pl.DataFrame:
    """A whole survivors.parquet."""
    types: dict[str, pl.DataType | type[pl.DataType]] = {
        "parents": TEXTS,
        "exemplars": TEXTS,
        "source": pl.String,
        "licence": pl.String,
        "chosen": pl.String,
    }
    return pl.DataFrame(list(survivors), schema_overrides=types, infer_schema_length=None)


def responses(survivor: dict[str, Any], rewards: Sequence[float | None] = (1.0, 2.0, None)) -> list[dict[str, Any]]:
    """The responses of a survivor: its rejected one, its chosen one, and others."""
    texts = [survivor["rejected"], survivor["chosen"], *(f"other {number}" for number in range(len(rewards) - 2))]
    return [
        {
            "prompt_id": survivor["prompt_id"], "sample": sample, "response": text, "reasoning": None,
            "reward": reward, "reward_id": "judge", "length": len(text or ""), "finish_reason": "stop",
            "truncated": False, "prompt_tokens": 5, "completion_tokens": 7, "engine": "null",
        }
        for sample, (text, reward) in enumerate(zip(texts, rewards, strict=True))
    ]  # fmt: skip


def write_run(folder: Path, survivors: pl.DataFrame, answers: Sequence[dict[str, Any]] = (), **engine: str) -> Path:
    """A run's folder with what an export reads."""
    write_parquet(folder / "survivors.parquet", survivors)
    if answers:
        write_parquet(folder / "responses" / "0000.parquet", pl.DataFrame(answers, schema=RESPONSE_SCHEMA))
    keys = "".join(f"{name} = {value!r}\n" for name, value in engine.items())
    tables = f"[run]\nseed = 7\n[pool]\npath = 'builtin:starter'\n[engine]\n{keys}[engine.sampling]\nn = 4\n"
    write_text(folder / "run.toml", f"{tables}[reward]\nkind = 'null'\n")
    return folder
