"""`fittest judge eval`, from recorded verdicts to models and rewards."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from runs.cli import main
from tests.tiny_model import make_tiny_model

ROW = {"instruction": "Name a sea.", "response_a": "The Baltic Sea.", "response_b": "No.", "label": "A"}


def judge_eval(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["judge", "eval", *map(str, arguments)])


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{**ROW, "instruction": f"Name sea {number}."} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def tiny_judge(model: Path) -> list[str]:
    settings = {
        "engine.kind": "transformers", "engine.model": model, "engine.device": "cpu",
        "judge.sampling.max_tokens": 6, "judge.sampling.temperature": 1.5,
    }  # fmt: skip
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_recorded_verdicts_of_llmbar_give_the_known_figures(shared_data: Path, tmp_path: Path) -> None:
    result = judge_eval(shared_data / "judging" / "llmbar.jsonl", "--recorded", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "eval.json").read_text())
    found = {
        name.rpartition("/")[2]: [round(row[key], 1) for key in ("ab", "ba", "consistent")]
        for name, row in figures.items()
        if name != "all"
    }
    assert found == {
        "Natural": [95.0, 96.0, 93.0],
        "Neighbor": [77.6, 79.9, 75.4],
        "GPTInst": [84.8, 88.0, 83.7],
        "GPTOut": [74.5, 80.9, 74.5],
        "Manual": [76.1, 84.8, 71.7],
    }
    assert figures["all"]["n"] == 419
    assert "77.6 (69.8–83.8)" in result.output


def test_an_engine_judges_both_orders_and_is_asked_once(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    arguments = (pairs, "--out", tmp_path / "out", *tiny_judge(tiny), "--set", "judge.votes=3")
    assert judge_eval(*arguments).exit_code == 0
    first = (tmp_path / "out" / "eval.json").read_bytes()
    assert judge_eval(*arguments).exit_code == 0
    assert (tmp_path / "out" / "eval.json").read_bytes() == first
    with sqlite3.connect(tmp_path / "out" / "journal.sqlite") as journal:
        assert journal.execute("SELECT count(*) FROM issued").fetchone() == (3 * 2 * 3,)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["judge"].endswith("3 votes")


def test_likelihood_gives_a_verdict_on_every_pair(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    result = judge_eval(pairs, "--likelihood", "--out", tmp_path / "out", *tiny_judge(tiny))
    assert result.exit_code == 0, result.output
    verdicts = pl.read_parquet(tmp_path / "out" / "verdicts.parquet")
    assert verdicts.select("verdict_ab", "verdict_ba").null_count().row(0) == (0, 0)


def test_a_reward_head_judges_like_people_where_that_is_easy(tmp_path: Path, minilm_folder: Path, pairs: Path) -> None:
    result = judge_eval(pairs, "--reward", "head", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "eval.json").read_text())["all"]["consistent"] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recorded"], "holds no recorded verdicts; expected columns recorded_NAME_verdict"),
        (["--recorded", "--reward", "head"], "give one of --recorded, --likelihood and --reward"),
        (["--likelihood"], 'probabilities and training need engine.kind = "transformers"; found "llamacpp"'),
        (["--set", "judge.vote=3"], "unknown key judge.vote"),
        (["--set", "engine.sampling.n=3"], "engine.sampling does not count here"),
        (["--set", "engine.kind=transformers"], 'engine kind "transformers" needs model'),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    pairs: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = judge_eval(pairs, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
