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

from fittest.runs.cli import main
from fittest.runs.output.survivors import SURVIVOR_SCHEMA


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
    more = {"keep_share": pl.Float64, "keep_probability": pl.Float64}
    assert survivors.schema == pl.Schema(SURVIVOR_SCHEMA | more)
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


def random_rows(seed: int = 0, prompts: int = 40, n: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt": f"p{i}",
            "response": "x" * int(rng.integers(1, 300)),
            "reward": float(rng.normal()),
            "helpfulness": float(rng.integers(0, 5)),
            "verbosity": float(rng.integers(0, 5)),
        }
        for i in range(prompts)
        for _ in range(n)
    ]


def metric_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Every metric, one prompt at a time, in plain NumPy."""
    found = []
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        rewards = np.array([row["reward"] for row in rows if row["prompt"] == prompt])
        lengths = [len(row["response"]) for row in rows if row["prompt"] == prompt]
        worst, best = int(rewards.argmin()), int(rewards.argmax())
        found.append({
            "prompt": prompt, "m1": rewards[worst], "m2": lengths[worst], "m3": rewards[best] - rewards[worst],
            "chosen_reward": rewards[best], "average_reward": rewards.mean(), "reward_std": rewards.std(),
            "chosen_length": lengths[best],
        })  # fmt: skip
    return pl.DataFrame(found)


@pytest.mark.parametrize(
    "metric", ["m1", "m2", "m3", "chosen_reward", "average_reward", "reward_std", "chosen_length"]
)
@pytest.mark.parametrize(("low", "high"), [(0, 25), (50, 100), (60, 100), (25, 75)])
def test_every_metric_alone_in_every_percentile_range(metric: str, low: int, high: int, tmp_path: Path) -> None:
    rows = random_rows()
    path = write_rows(tmp_path / "r.jsonl", rows)
    result = filtered(path, "--percentiles", f"{metric}={low}-{high}", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = metric_table(rows)
    kept = pl.Series([True] * table.height)
    if low:
        kept &= table[metric] >= np.quantile(table[metric], low / 100)
    if high < 100:
        kept &= table[metric] <= np.quantile(table[metric], high / 100)
    survivors = pl.read_parquet(tmp_path / "out" / "survivors.parquet")
    assert set(survivors["prompt"]) == set(table.filter(kept)["prompt"])


@pytest.mark.parametrize("metrics", ["m1,m2", "m3,m1", "m2"])
def test_some_metrics_only(metrics: str, tmp_path: Path) -> None:
    rows = random_rows()
    result = filtered(write_rows(tmp_path / "r.jsonl", rows), "--metrics", metrics, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = metric_table(rows)
    kept = pl.Series([True] * table.height)
    for metric in metrics.split(","):
        median = np.median(table[metric])
        kept &= table[metric] <= median if metric == "m3" else table[metric] >= median
    survivors = pl.read_parquet(tmp_path / "out" / "survivors.parquet")
    assert set(survivors["prompt"]) == set(table.filter(kept)["prompt"])


def test_the_further_cuts_are_written_and_used_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows())
    filtered(path, "--at-most", "chosen_length=200", "--at-least", "average_reward=-0.2", "--out", tmp_path / "one")
    filtered(path, "--thresholds", tmp_path / "one" / "thresholds.json", "--out", tmp_path / "two")
    one, two = (pl.read_parquet(tmp_path / name / "survivors.parquet") for name in ("one", "two"))
    assert 0 < one.height < 40
    # cuts of a file are not fitted to half-samples, so these differ
    again = ("keep_share", "keep_probability")
    assert one.drop(again).equals(two.drop(again))
    assert (one["chosen"].str.len_chars() <= 200).all()


def test_a_weighted_sum_of_columns_is_the_reward(tmp_path: Path) -> None:
    rows = random_rows()
    path = write_rows(tmp_path / "r.jsonl", rows)
    filtered(path, "--reward-weights", "helpfulness=0.65,verbosity=-0.5", "--quantile", 0, "--out", tmp_path / "out")
    survivors = pl.read_parquet(tmp_path / "out" / "survivors.parquet")
    first = [0.65 * row["helpfulness"] - 0.5 * row["verbosity"] for row in rows if row["prompt"] == "p0"]
    assert survivors.row(0, named=True)["rejected_reward"] == min(first)
    record = json.loads((tmp_path / "out" / "thresholds.json").read_text())
    assert record["reward_id"] == "columns:0.65*helpfulness+-0.5*verbosity"
    filtered(path, "--reward-weights", "verbosity=-0.5,helpfulness=0.65", "--quantile", 0, "--out", tmp_path / "two")
    assert json.loads((tmp_path / "two" / "thresholds.json").read_text()) == record


def test_weights_give_the_same_from_every_format(tmp_path: Path) -> None:
    rows = random_rows()
    rows[3]["verbosity"] = None
    pl.DataFrame(rows).write_parquet(tmp_path / "r.parquet")
    write_rows(tmp_path / "r.jsonl", rows)
    for suffix in ("parquet", "jsonl"):
        weights = ("--reward-weights", "helpfulness=0.65,verbosity=0.4")
        assert filtered(tmp_path / f"r.{suffix}", *weights, "--out", tmp_path / suffix).exit_code == 0
    one, two = (pl.read_parquet(tmp_path / name / "survivors.parquet") for name in ("parquet", "jsonl"))
    # cuts of a file are not fitted to half-samples, so these differ
    again = ("keep_share", "keep_probability")
    assert one.drop(again).equals(two.drop(again))
    assert json.loads((tmp_path / "parquet" / "summary.json").read_text())["failures"] == {"reward is null": 1}


def test_rewards_too_large_for_arithmetic_are_missing(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", rows_of("a", 1e308, -1e308, 0.5, 0.7))
    pl.read_ndjson(path).write_parquet(tmp_path / "r.parquet")
    for file in (path, tmp_path / "r.parquet"):
        assert filtered(file, "--out", tmp_path / "out").exit_code == 0
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["failures"] == {"reward is infinite": 2}


def test_length_residuals_choose_other_responses_and_are_another_reward(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 300, size=(30, 6))
    rows = [
        {"prompt": f"p{i}", "response": "x" * int(length), "reward": float(length / 50 + rng.normal())}
        for i, row in enumerate(lengths)
        for length in row
    ]
    path = write_rows(tmp_path / "r.jsonl", rows)
    filtered(path, "--quantile", 0, "--out", tmp_path / "plain")
    filtered(path, "--quantile", 0, "--length-residual", "--out", tmp_path / "residual")
    plain, residual = (pl.read_parquet(tmp_path / name / "survivors.parquet") for name in ("plain", "residual"))
    assert residual["chosen"].str.len_chars().mean() < plain["chosen"].str.len_chars().mean()
    refused = filtered(path, "--thresholds", tmp_path / "residual" / "thresholds.json", "--out", tmp_path / "third")
    assert refused.exit_code == 2
    assert "length-residual" in refused.output


@pytest.mark.parametrize("pairing", ["best-random", "best-bottom:0.25"])
def test_other_pairings(pairing: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows())
    filtered(path, "--pairing", pairing, "--seed", 4, "--quantile", 0, "--out", tmp_path / "one")
    filtered(path, "--quantile", 0, "--out", tmp_path / "worst")
    one, worst = (pl.read_parquet(tmp_path / name / "survivors.parquet") for name in ("one", "worst"))
    assert (one["rejected_reward"] >= worst["rejected_reward"]).all()
    assert (one["rejected_reward"] > worst["rejected_reward"]).any()
    assert one["chosen_reward"].to_list() == worst["chosen_reward"].to_list()
    refused = filtered(path, "--thresholds", tmp_path / "one" / "thresholds.json", "--out", tmp_path / "two")
    assert f"its cuts are for pairing '{pairing}', here it is 'best-worst'" in refused.output


def test_tokens_of_a_model_are_a_unit(minilm_folder: Path, tmp_path: Path) -> None:
    rows = rows_of("a", 0.1, 0.9) + rows_of("b", 0.6, 0.7)
    rows[0]["response"] = "unbelievably long compounds"
    path = write_rows(tmp_path / "r.jsonl", rows)
    result = filtered(path, "--length-unit", f"tokens:{minilm_folder}", "--quantile", 0, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (length, *_) = pl.read_parquet(tmp_path / "out" / "survivors.parquet")["rejected_length"]
    assert 3 <= length < len("unbelievably long compounds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--percentiles", "m9=0-50"), "is no metric"),
        (("--percentiles", "m1=50"), "such as m1=60-100"),
        (("--at-most", "m1"), "write it as METRIC=NUMBER"),
        (("--reward-column", "a", "--reward-weights", "b=1"), "not both"),
        (("--percentiles", "m1=60-20"), "no range"),
        (("--at-most", "m1=inf"), "finite"),
        (("--metrics", "m1,length"), "'length' is no metric"),
        (("--reward-weights", "helpfulness"), "COLUMN=WEIGHT"),
        (("--reward-weights", "quality=1"), "no column 'quality'"),
        (("--length-unit", "bytes"), "chars, words, or tokens:MODEL"),
        (("--length-unit", "tokens:/nowhere"), "/nowhere: not loaded as a tokenizer"),
        (("--pairing", "best"), "best-bottom:FRACTION"),
        (("--percentiles", "m1=0-50", "--quantile", "0.5"), "give one of"),
        (("--percentiles", "m1=0-50", "--percentiles", "m1=20-50"), "--percentiles names m1 twice"),
        (("--percentiles", "m1=0-50", "--metrics", "m2"), "--metrics goes with"),
        (("--min-reward", "0", "--metrics", "m2"), "--metrics goes with"),
        (("--by", "jaccard", "--quantile", "0.9"), "--by jaccard has no use for RIP's cuts"),
        (("--reward-weights", "reward=1,reward=2"), "'reward' has two weights"),
        (("--metrics", ""), "'' is no metric"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows(prompts=2))
    result = filtered(path, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_narrower_of_two_cuts_of_one_metric_holds(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows())
    filtered(path, "--min-reward", -2, "--at-least", "m1=-1", "--out", tmp_path / "one")
    filtered(path, "--min-reward", -1, "--at-least", "m1=-2", "--out", tmp_path / "two")
    assert json.loads((tmp_path / "one" / "thresholds.json").read_text())["min_reward"] == -1
    assert json.loads((tmp_path / "two" / "thresholds.json").read_text())["min_reward"] == -1


def test_bounds_and_metrics_beside_a_thresholds_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows())
    filtered(path, "--out", tmp_path / "one")
    cuts = tmp_path / "one" / "thresholds.json"
    filtered(path, "--thresholds", cuts, "--at-most", "chosen_length=150", "--out", tmp_path / "short")
    one, short = (pl.read_parquet(tmp_path / name / "survivors.parquet") for name in ("one", "short"))
    kept = one.filter(pl.col("chosen").str.len_chars() <= 150)
    assert 0 < kept.height < one.height
    assert short["prompt"].to_list() == kept["prompt"].to_list()
    filtered(path, "--thresholds", cuts, "--metrics", "m1", "--out", tmp_path / "m1")
    alone = pl.read_parquet(tmp_path / "m1" / "survivors.parquet")
    assert (alone["rejected_reward"] >= json.loads(cuts.read_text())["min_reward"]).all()
    assert alone.height == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": [6]}, "n: Input should be a valid integer"),
        ({"n": "six"}, "n: Input should be a valid integer"),
        ({"min_reward": True}, "min_reward: Input should be a valid number"),
        ({"min_reward": math.inf}, "min_reward: Input should be a finite number"),
        ({"cuts": {"m1": "12"}}, "cuts.m1: Input should be a valid array"),
        ({"cuts": {"m1": [2]}}, "cuts.m1.1: Field required"),
        ({"cuts": {"foo": [1, 2]}}, "cuts.foo"),
        ({"schema": 99}, "schema: Input should be 1"),
        ({"min_reward": None, "min_length": None, "max_gap": None}, "holds no cuts"),
    ],
)
def test_a_broken_thresholds_file_is_one_clear_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows(prompts=4))
    filtered(path, "--out", tmp_path / "one")
    cuts = tmp_path / "one" / "thresholds.json"
    cuts.write_text(json.dumps({**json.loads(cuts.read_text()), **change}))
    result = filtered(path, "--thresholds", cuts, "--out", tmp_path / "two")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("verb", ["filter", "ablate"])
def test_the_folder_of_a_run_is_never_written_over(verb: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", random_rows(prompts=4))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").write_text("[run]")
    result = CliRunner().invoke(main, [verb, str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "holds a run" in result.output
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["run.toml"]
