"""Rewards as configured: recorded columns, the engine as judge, a classifier; and the control arms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.arms import ARMS
from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from tests.conftest import null_tables


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """12 prompts of four answers with two ratings."""
    rows = [
        {
            "prompt": f"Please explain to me how machine number {i} works and what it is for.",
            "response": f"It is machine {i}. " * (k + 1),
            "helpfulness": float((i * 7 + k * 3) % 5),
            "verbosity": float(k),
        }
        for i in range(12)
        for k in range(4)
    ]
    path = tmp_path / "responses.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def replayed(path: Path, reward: dict[str, Any]) -> dict[str, Any]:
    return null_tables(
        run={"generations": 0},
        pool={"path": str(path), "limit": 0},
        engine={"kind": "replay", "path": str(path)},
        reward={"kind": "recorded", "path": str(path), **reward},
        gates={"languages": []},
    )


def test_a_run_on_recorded_responses_and_rewards_keeps_what_filter_keeps(recorded: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from fittest.runs.cli import main

    run(parse_config(replayed(recorded, {"weights": {"helpfulness": 0.65, "verbosity": -0.4}})), tmp_path / "run")
    arguments = ["--reward-weights", "helpfulness=0.65,verbosity=-0.4", "--quantile", "0.3"]
    result = CliRunner().invoke(main, ["filter", str(recorded), *arguments, "--out", str(tmp_path / "filter")])
    assert result.exit_code == 0, result.output
    columns = ["prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "rejected_length", "reward_gap"]
    one, two = (pl.read_parquet(tmp_path / name / "survivors.parquet").select(columns) for name in ("run", "filter"))
    assert one.height > 0
    assert one.sort("prompt").equals(two.sort("prompt"))
    cuts = [json.loads((tmp_path / name / "thresholds.json").read_text()) for name in ("run", "filter")]
    assert cuts[0]["reward_id"] == cuts[1]["reward_id"] == "columns:0.65*helpfulness+-0.4*verbosity"
    assert cuts[0] == cuts[1]


def test_a_response_without_a_recorded_reward_is_missing_with_that_reason(recorded: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.parquet"
    pl.read_parquet(recorded).filter(pl.col("verbosity") > 0).write_parquet(part)
    tables = replayed(recorded, {"column": "helpfulness"})
    tables["reward"]["path"] = str(part)
    result = run(parse_config(tables), tmp_path / "run")
    assert result.summary["failures"] == {"no reward is recorded for this response": 12}


def test_another_table_of_rewards_on_resume_is_refused(recorded: Path, tmp_path: Path) -> None:
    tables = replayed(recorded, {"column": "helpfulness"})
    other = tmp_path / "other.parquet"
    pl.read_parquet(recorded).write_parquet(other)
    tables["reward"]["path"] = str(other)
    run(parse_config({**tables, "budget": {"max_tokens": 300}}), tmp_path / "run")
    pl.read_parquet(recorded).with_columns(pl.col("helpfulness") * -100).write_parquet(other)
    with pytest.raises(FittestError, match=r"reward\.path"):
        run(parse_config(tables), tmp_path / "run", resume=True)


def test_two_rewards_for_the_same_response_are_refused(recorded: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(recorded)
    twice = pl.concat([frame, frame.head(1).with_columns(helpfulness=pl.lit(9.0))])
    twice.write_parquet(tmp_path / "twice.parquet")
    tables = replayed(recorded, {"column": "helpfulness"})
    tables["reward"]["path"] = str(tmp_path / "twice.parquet")
    with pytest.raises(FittestError, match="is recorded with two rewards"):
        run(parse_config(tables), tmp_path / "run")


def test_the_engine_judges_its_own_answers_and_the_votes_are_journalled(tmp_path: Path) -> None:
    tables = null_tables(reward={"kind": "judge", "votes": 3}, run={"generations": 1}, pool={"limit": 8})
    first = run(parse_config(tables), tmp_path / "run")
    assert first.evolution is not None
    judged = first.evolution.feeder.traffic["judge"].requests
    assert judged > 0
    assert judged % 3 == 0
    survivors = first.survivors
    assert survivors.height > 0
    assert survivors["chosen_reward"].is_between(0, 10).all()
    record = json.loads((tmp_path / "run" / "thresholds.json").read_text())
    assert record["reward_id"].startswith("judge:")


def test_a_resumed_run_with_a_judge_counts_every_vote_again(tmp_path: Path) -> None:
    tables = null_tables(reward={"kind": "judge", "votes": 3}, run={"generations": 1}, pool={"limit": 8})
    run(parse_config(tables), tmp_path / "whole")
    run(parse_config({**tables, "budget": {"max_tokens": 1500}}), tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["stop_reason"] == "max_tokens"
    run(parse_config(tables), tmp_path / "parts", resume=True)
    for table in ("logbook.parquet", "survivors.parquet", "generations/0001.parquet"):
        assert (tmp_path / "parts" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    whole, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
    assert parts["prompt_tokens"] == whole["prompt_tokens"]
    assert parts["completion_tokens"] == whole["completion_tokens"]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"kind": "recorded"}, "needs path"),
        ({"kind": "recorded", "path": "t", "column": "a", "weights": {"b": 1.0}}, "not both"),
        ({"kind": "classifier"}, "needs model"),
        ({"kind": "head", "votes": 3}, "does not take votes"),
        ({"kind": "judge", "model": "x"}, "does not take model"),
    ],
)
def test_reward_keys_that_do_not_fit_are_refused(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config(null_tables(reward=reward))


def test_a_classifier_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    tables = null_tables(reward={"kind": "classifier", "model": str(tmp_path / "nowhere")})
    with pytest.raises(FittestError, match=r"reward\.model: no folder"):
        run(parse_config(tables), tmp_path / "run")


def parents_of(folder: Path) -> dict[int, set[str]]:
    """All parents and exemplars, by generation."""
    return {
        number: {
            name
            for column in ("parents", "exemplars")
            for names in pl.read_parquet(folder / "generations" / f"{number:04d}.parquet")[column].to_list()
            for name in names
        }
        for number in (1, 2, 3)
    }


def test_each_arm_breeds_from_what_it_says(tmp_path: Path) -> None:
    bred, pools, survivors, offspring = {}, {}, {}, {}
    for arm in ARMS:
        folder = tmp_path / arm
        tables = null_tables(run={"generations": 3, "arm": arm}, operators={"offspring": 40, "shots": 4})
        summary = run(parse_config(tables), folder).summary
        bred[arm] = parents_of(folder)
        tables_of = [pl.read_parquet(file) for file in sorted((folder / "generations").glob("*.parquet"))]
        pools[arm] = set(tables_of[0].filter(pl.col("n_drawn") > 0)["prompt_id"])
        survivors[arm] = set(pl.concat(tables_of).filter("survived")["prompt_id"])
        offspring[arm] = set(pl.concat(tables_of[1:])["prompt_id"])
        assert summary["candidates"] == 40 + 3 * 40
    assert bred["evolution"][3] <= survivors["evolution"]
    assert bred["evolution"][3] & offspring["evolution"]
    assert bred["random-few-shot"][3] - survivors["random-few-shot"]
    assert bred["random-few-shot"][3] & offspring["random-few-shot"]
    for arm in ("self-instruct", "best-of-n"):
        assert bred[arm][3] <= pools[arm]
        assert bred[arm][3] - survivors["evolution"]
    assert bred["one-shot"][3] <= pools["one-shot"] & survivors["one-shot"]


def test_the_arm_is_one_flag(tmp_path: Path) -> None:
    import tomllib

    import tomli_w
    from click.testing import CliRunner

    from fittest.runs.cli import main

    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(null_tables(run={"generations": 1})))
    result = CliRunner().invoke(main, ["run", str(path), "--arm", "one-shot", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert tomllib.loads((tmp_path / "out" / "run.toml").read_text())["run"]["arm"] == "one-shot"


def test_a_run_with_batched_rewards_ends_with_the_same_tables_however_often_it_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.fitness.rewards.test_classifier import save_model

    save_model(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("128", "4096"), encoding="utf-8")
    tables = null_tables(run={"generations": 1}, pool={"limit": 16}, operators={"offspring": 8})
    tables["reward"] = {"kind": "classifier", "model": str(tmp_path / "model"), "batch_tokens": 700}
    whole = run(parse_config(tables), tmp_path / "whole")
    assert whole.summary["failures"] == {}
    tokens = whole.summary["prompt_tokens"] + whole.summary["completion_tokens"]
    for share in (0.3, 0.6, 0.0):
        tables["budget"] = {"max_tokens": int(share * tokens)}
        run(parse_config(tables), tmp_path / "parts", resume=True)
    for table in ("logbook.parquet", "survivors.parquet", "generations/0001.parquet"):
        assert (tmp_path / "parts" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
