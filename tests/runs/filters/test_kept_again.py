"""`filter` says how likely prompts would be kept again, keeps by it, and says why where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

import fittest
from fittest.runs.cli import main


def filtered(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["filter", *(str(argument) for argument in arguments)])


def table(path: Path, prompts: int = 60, n: int = 6) -> Path:
    rng = np.random.default_rng(3)
    mean, length = rng.normal(size=(2, prompts, 1))
    rewards = (mean + 0.7 * rng.normal(size=(prompts, n))).ravel()
    lengths = np.exp(4 + 0.6 * length + 0.3 * rng.normal(size=(prompts, n))).astype(int).ravel()
    names = np.repeat([f"prompt {i}" for i in range(prompts)], n)
    texts = ["a" * size for size in lengths.tolist()]
    pl.DataFrame({"prompt": names, "response": texts, "reward": rewards}).write_parquet(path)
    return path


def tables(out: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    survivors, rejected = (pl.read_parquet(out / f"{name}.parquet") for name in ("survivors", "rejected"))
    return survivors, rejected, json.loads((out / "summary.json").read_text())


def test_every_prompt_has_a_share_and_a_probability(tmp_path: Path) -> None:
    result = filtered(table(tmp_path / "r.parquet"), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    survivors, rejected, summary = tables(tmp_path / "out")
    for name in ("keep_share", "keep_probability"):
        both = pl.concat([survivors[name], rejected[name]])
        assert both.null_count() == 0
        assert both.is_between(0, 1).all()
        assert survivors[name].mean() > rejected[name].mean()
    # shares of 100 half-samples
    assert (survivors["keep_share"] * 100 - (survivors["keep_share"] * 100).round()).abs().max() < 1e-9
    assert set(summary["repeatability"]) == {"m1", "m2", "m3", "survive"}
    assert set(summary["repeatability"]["survive"]) == {"share", "low", "high", "splits"}
    assert "repeatability between half draws: m1 0." in result.output


def test_min_probability_keeps_by_the_chance_and_not_by_this_draw(tmp_path: Path) -> None:
    source = table(tmp_path / "r.parquet")
    filtered(source, "--out", tmp_path / "now")
    result = filtered(source, "--min-probability", 0.4, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    now, _, _ = tables(tmp_path / "now")
    survivors, rejected, summary = tables(tmp_path / "again")
    assert survivors.height > 0
    assert (survivors["keep_probability"] >= 0.4).all()
    assert (rejected["keep_probability"] < 0.4).all()
    assert rejected["reason"].str.contains("keep_probability 0.* is below 0.4").all()
    assert summary["min_probability"] == 0.4
    assert set(survivors["prompt"]) != set(now["prompt"])
    by_call = fittest.filter(source, tmp_path / "call", min_probability=0.4).survivors
    assert by_call["prompt"].to_list() == survivors["prompt"].to_list()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-probability", "1.5"], "at most 1"),
        (["--min-probability", "0"], "above 0"),
        (["--min-probability", "nan"], "above 0"),
        (["--min-probability", "0.5", "--by", "random"], "--by"),
        (["--min-probability", "0.5", "--keep-band", "0.2-0.8"], "band"),
        (["--min-probability", "0.5", "--at-most", "reward_std=1"], "reward_std"),
    ],
)
def test_a_probability_that_cannot_be_used_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    result = filtered(table(tmp_path / "r.parquet"), *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out" / "survivors.parquet").exists()


def test_too_few_responses_are_null_with_the_reason(tmp_path: Path) -> None:
    result = filtered(table(tmp_path / "r.parquet", n=3), "--out", tmp_path / "out")
    survivors, rejected, summary = tables(tmp_path / "out")
    assert pl.concat([survivors["keep_share"], rejected["keep_share"]]).null_count() == 60
    assert pl.concat([survivors["keep_probability"], rejected["keep_probability"]]).null_count() == 0
    assert summary["repeatability"]["survive"] is None
    assert "4 scored responses" in summary["repeatability"]["notes"]["survive"]
    assert "keep_share of 60 prompts is null" in result.output

    filtered(table(tmp_path / "few.parquet", prompts=3), "--out", tmp_path / "few")
    survivors, rejected, summary = tables(tmp_path / "few")
    assert pl.concat([survivors["keep_probability"], rejected["keep_probability"]]).null_count() == 3
    assert any("keep_probability is null: fewer than 5 prompts" in warning for warning in summary["warnings"])


@pytest.mark.parametrize("options", [["--by", "random"], ["--keep-band=-1-1"], ["--by", "jaccard"]])
def test_other_filters_say_what_is_the_metrics_own_and_no_more(tmp_path: Path, options: list[str]) -> None:
    filtered(table(tmp_path / "r.parquet"), *options, "--out", tmp_path / "out")
    survivors, _, summary = tables(tmp_path / "out")
    assert survivors["keep_probability"].null_count() == survivors.height > 0
    assert 0 < summary["repeatability"]["m1"] < 1
    assert summary["repeatability"]["survive"] is None
    assert "not applied to half draws" in summary["repeatability"]["notes"]["survive"]
