"""`fittest judge eval`, from recorded verdicts to models and rewards."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from fittest.evo.backends.transformers import Transformers
from fittest.fitness.judge.likelihood import TransformersVerdicts
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Order
from fittest.runs.asking import journal_at
from fittest.runs.cli import main
from fittest.runs.judge.eval import Judged
from tests.tiny_model import make_tiny_model

ROW = {"instruction": "Name a sea.", "response_a": "The Baltic Sea.", "response_b": "No.", "label": "A"}


def judge(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["judge", *map(str, arguments)])


def judge_eval(*arguments: str | Path) -> Result:
    return judge("eval", *arguments)


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
    with closing(sqlite3.connect(tmp_path / "out" / "journal.sqlite")) as journal:
        assert journal.execute("SELECT count(*) FROM issued").fetchone() == (3 * 2 * 3,)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["judge"].endswith("3 votes")


def test_odds_are_kept_for_the_wording_that_they_were_given_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = Transformers(model=tiny, device="cpu"), []

    class Counted(TransformersVerdicts):
        def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
            asked.append(order)
            return super().log_odds(pair, order, begun)

    with journal_at(tmp_path / "journal.sqlite") as journal:
        pairs = [Pair("x", "a", "b", "A")]
        first = Judged.by_likelihood(pairs, Counted(engine), journal).verdicts
        assert Judged.by_likelihood(pairs, Counted(engine), journal).verdicts == first
        assert asked == ["AB", "BA"]
        monkeypatch.setattr("fittest.runs.judge.eval.wording_id", lambda: "another")
        Judged.by_likelihood(pairs, Counted(engine), journal)
        assert asked == ["AB", "BA"] * 2


def test_likelihood_gives_a_verdict_on_every_pair(pairs: Path, tiny: Path, tmp_path: Path) -> None:
    result = judge_eval(pairs, "--likelihood", "--out", tmp_path / "out", *tiny_judge(tiny))
    assert result.exit_code == 0, result.output
    verdicts = pl.read_parquet(tmp_path / "out" / "verdicts.parquet")
    assert verdicts.select("verdict_ab", "verdict_ba", "margin").null_count().row(0) == (0, 0, 0)
    figures = json.loads((tmp_path / "out" / "eval.json").read_text())["all"]
    assert figures["averaged"] == pytest.approx(100 * (verdicts["margin"] > 0).mean())
    assert "averaged" in result.output


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


def test_pairs_without_labels_are_judged_and_both_orders_have_to_agree(tiny: Path, tmp_path: Path) -> None:
    rows = [{**ROW, "label": label, "instruction": f"Name sea {number}."} for number, label in enumerate("AB")]
    rows += [{name: text for name, text in ROW.items() if name != "label"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge("infer", tmp_path / "pairs.jsonl", "--likelihood", "--out", tmp_path / "out", *tiny_judge(tiny))
    assert result.exit_code == 0, result.output
    verdicts = pl.read_parquet(tmp_path / "out" / "verdicts.parquet")
    assert verdicts["label"].to_list() == ["A", "B", None]
    agreed = [row["verdict_ab"] if row["verdict_ab"] != row["verdict_ba"] else None for row in verdicts.to_dicts()]
    assert verdicts["winner"].to_list() == agreed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    counts = [summary[name] for name in ("a_wins", "b_wins", "orders_disagree", "no_verdict")]
    assert counts == [agreed.count("A"), agreed.count("B"), agreed.count(None), 0]
    assert f"of 3 pairs A wins {counts[0]}, B {counts[1]}; the orders disagree on {counts[2]}" in result.output
    refused = judge("eval", tmp_path / "pairs.jsonl", "--likelihood", "--out", tmp_path / "eval", *tiny_judge(tiny))
    assert "1 pairs without a better answer are left out" in refused.output


def test_a_reward_and_silence_are_inferred_as_well(
    pairs: Path, tiny: Path, tmp_path: Path, minilm_folder: Path
) -> None:
    liked = judge("infer", pairs, "--reward", "head", "--out", tmp_path / "liked")
    assert "of 3 pairs A wins 3, B 0; the orders disagree on 0, 0 lack a verdict" in liked.output
    silent = judge(
        "infer", pairs, "--out", tmp_path / "silent", *tiny_judge(tiny), "--set", "judge.sampling.max_tokens=1"
    )
    assert "of 3 pairs A wins 0, B 0; the orders disagree on 0, 3 lack a verdict" in silent.output
    both = judge("infer", pairs, "--reward", "head", "--likelihood", "--out", tmp_path / "both")
    assert (both.exit_code, "give one of --likelihood and --reward" in both.output) == (2, True)
