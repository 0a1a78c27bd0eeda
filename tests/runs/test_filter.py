"""`filter` keeps exactly what a few lines of NumPy keep, and says what it could not use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from runs.cli import main
from runs.survivors import SURVIVOR_SCHEMA


def filtered(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["filter", *(str(argument) for argument in arguments)])


def by_hand(prompts: list[str], responses: list[str], rewards: list[float | None], quantile: float) -> set[str]:
    """The ten lines of independent NumPy."""
    table: dict[str, list[tuple[float, int]]] = {}
    for prompt, response, reward in zip(prompts, responses, rewards, strict=True):
        table.setdefault(prompt, [])
        if reward is not None and math.isfinite(reward):
            table[prompt].append((reward, len(response)))
    kept = {prompt: np.array(rows) for prompt, rows in table.items() if len(rows) >= 2}
    m1 = np.array([rows[:, 0].min() for rows in kept.values()])
    m2 = np.array([rows[rows[:, 0].argmin(), 1] for rows in kept.values()])
    m3 = np.array([rows[:, 0].max() for rows in kept.values()]) - m1
    good = (
        (m1 >= np.quantile(m1, quantile)) & (m2 >= np.quantile(m2, quantile)) & (m3 <= np.quantile(m3, 1 - quantile))
    )
    return {prompt for prompt, survives in zip(kept, good, strict=True) if survives}


@pytest.mark.parametrize("name", ["arena_bench_v1", "tulu2_bon16"])
@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_real_responses_give_the_survivors_of_plain_numpy(
    name: str, quantile: float, shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "responses" / f"{name}.parquet"
    columns = ("--prompt-column", "instruction", "--response-column", "output", "--reward-column", "reward")
    result = filtered(path, *columns, "--quantile", quantile, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    table = pl.read_parquet(path)
    expected = by_hand(table["instruction"].to_list(), table["output"].to_list(), table["reward"].to_list(), quantile)
    survivors = pl.read_parquet(tmp_path / "survivors.parquet")
    rejected = pl.read_parquet(tmp_path / "rejected.parquet")
    assert set(survivors["prompt"]) == expected
    assert survivors.height + rejected.height == table["instruction"].n_unique()
    assert rejected.filter(pl.col("reason").is_null()).is_empty()


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(prompt: str, *rewards: float | None) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "response": f"answer {i} " * (i + 1), "reward": r} for i, r in enumerate(rewards)]


def test_missing_rewards_are_counted_by_reason_and_never_the_minimum(tmp_path: Path) -> None:
    rows = rows_of("a", 0.5, None, math.nan, 0.75) + rows_of("b", 0.5, math.inf, 0.75, -math.inf)
    result = filtered(write_rows(tmp_path / "r.jsonl", rows), "--quantile", "0", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    survivors = pl.read_parquet(tmp_path / "out" / "survivors.parquet")
    assert survivors["rejected_reward"].to_list() == [0.5, 0.5]
    assert survivors["n"].to_list() == [2, 2]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["failures"] == {"reward is NaN": 1, "reward is infinite": 2, "reward is null": 1}


def test_the_same_table_gives_the_same_from_every_format(tmp_path: Path) -> None:
    rows = rows_of("a", 0.1, 0.9, 0.4) + rows_of("b", 0.6, 0.7, None) + rows_of("c", 0.2, 0.3, 0.9)
    frame = pl.DataFrame(rows)
    frame.write_parquet(tmp_path / "r.parquet")
    frame.write_csv(tmp_path / "r.csv")
    write_rows(tmp_path / "r.jsonl", rows)
    found = []
    for suffix in ("parquet", "csv", "jsonl"):
        out = tmp_path / suffix
        assert filtered(tmp_path / f"r.{suffix}", "--out", out).exit_code == 0
        found.append((out / "survivors.parquet").read_bytes() + (out / "thresholds.json").read_bytes())
    assert found[0] == found[1] == found[2]


def test_survivors_have_the_columns_of_a_run(tmp_path: Path) -> None:
    filtered(write_rows(tmp_path / "r.jsonl", rows_of("a", 0.1, 0.9)), "--out", tmp_path / "out")
    survivors = pl.read_parquet(tmp_path / "out" / "survivors.parquet")
    assert survivors.schema == pl.Schema(SURVIVOR_SCHEMA)
    (row,) = survivors.iter_rows(named=True)
    assert (row["generation"], row["operator"], row["parents"], row["diversity"]) == (0, "pool", [], None)


def test_prompts_with_too_few_scores_are_rejected_with_that_reason_and_do_not_enter_the_cuts(tmp_path: Path) -> None:
    rows = rows_of("a", 0.5, 0.6) + rows_of("b", 0.9) + rows_of("c", None, 0.2)
    filtered(write_rows(tmp_path / "r.jsonl", rows), "--out", tmp_path / "out")
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert dict(rejected.select("prompt", "reason").iter_rows()) == dict.fromkeys(
        "bc", "fewer than two scored responses"
    )
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["prompts_fitted"] == 1


def test_mixed_numbers_of_responses_are_a_warning(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", rows_of("a", 0.5, 0.6) + rows_of("b", 0.5, 0.6, 0.7))
    result = filtered(path, "--out", tmp_path / "out")
    assert "1 with 2, 1 with 3" in result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scored_responses"] == {"2": 1, "3": 1}


def test_cuts_of_an_earlier_filter_are_used_again(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "r.jsonl", rows_of("a", 0.1, 0.9) + rows_of("b", 0.6, 0.7))
    filtered(first, "--out", tmp_path / "one")
    second = write_rows(tmp_path / "s.jsonl", rows_of("c", 0.6, 0.7) + rows_of("d", 0.05, 0.7))
    result = filtered(second, "--thresholds", tmp_path / "one" / "thresholds.json", "--out", tmp_path / "two")
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(tmp_path / "two" / "survivors.parquet")["prompt"].to_list() == ["c"]


@pytest.mark.parametrize("option", [("--reward-id", "armo"), ("--length-unit", "words")])
def test_cuts_for_another_reward_or_unit_are_refused_with_both_named(option: tuple[str, str], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", rows_of("a", 0.1, 0.9))
    filtered(path, "--out", tmp_path / "one")
    result = filtered(path, "--thresholds", tmp_path / "one" / "thresholds.json", *option, "--out", tmp_path / "two")
    assert result.exit_code == 2
    assert repr(option[1]) in result.output
    assert "its cuts are for" in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "response": "b", "reward": 1}\n{"prompt": "a"', "line 2"),
        ('{"prompt": "a", "response": "b", "reward": "high"}', "the reward is 'high'; it should be a number"),
        ('{"prompt": "a", "response": 7, "reward": 1}', "response is 7; it should be text"),
        ('{"prompt": "a", "answer": "b", "reward": 1}', "no column 'response'"),
        ("", "holds no"),
    ],
)
def test_bad_rows_are_named_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    result = filtered(path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.output.startswith("fittest: ")
    assert result.output.count("\n") == 1
    assert message in result.output


def test_lone_surrogates_and_nul_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "a\\ud800\\u0000", "response": "b\\udfff", "reward": 1}\n' * 2)
    assert filtered(path, "--quantile", 0, "--out", tmp_path / "out").exit_code == 0


def test_all_rewards_equal_or_all_missing(tmp_path: Path) -> None:
    same = write_rows(tmp_path / "same.jsonl", rows_of("a", 1.0, 1.0) + rows_of("b", 1.0, 1.0))
    assert "2 of 2 prompts survive" in filtered(same, "--out", tmp_path / "same").output
    none = write_rows(tmp_path / "none.jsonl", rows_of("a", None, None))
    assert "0 of 1 prompts survive" in filtered(none, "--out", tmp_path / "none").output


def test_two_kinds_of_cuts_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", rows_of("a", 0.1, 0.9))
    assert filtered(path, "--quantile", 0.5, "--min-reward", 1, "--out", tmp_path / "out").exit_code == 2
