"""A run whose judge is trained between generations: the cuts follow it, and it goes on where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.loading import adapter_id
from fittest.runs import parse_config, run
from tests.conftest import null_tables
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.training

TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def tables(model: Path, **judge: Any) -> dict[str, Any]:
    return null_tables(
        run={"generations": 2},
        pool={"limit": 14},
        engine={
            "kind": "transformers", "model": str(model), "device": "cpu", "slots": 8,
            "sampling": {"n": 2, "max_tokens": 12, "temperature": 1.0, "top_p": 1.0},
        },
        reward={"kind": "pairwise"},
        selection={"quantile": 0.1},
        operators={"offspring": 4, "sampling": {"max_tokens": 12}},
        judge={
            "model": str(model), "device": "cpu", "retrain_every": 1, "samples": 6, "max_tokens": 8,
            "learning_rate": 1e-2, **judge,
        },
    )  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    files = [folder / name for name in TABLES] + sorted((folder / "generations").glob("*.parquet"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


@pytest.fixture(scope="module")
def taught(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("trl")
    out = tmp_path_factory.mktemp("taught") / "run"
    run(parse_config(tables(model)), out)
    return out


def test_the_judge_is_trained_before_the_second_generation_and_the_cuts_move(taught: Path) -> None:
    (note,) = [warning for warning in summary(taught)["warnings"] if warning.startswith("before generation 2")]
    examples = len((taught / "judge" / "0001" / "iteration-1" / "train.jsonl").read_text().splitlines())
    assert f"the judge was trained on {examples} of " in note
    assert "the cuts are fitted to the pool anew" in note
    assert (taught / "judge" / "0001" / "iteration-1" / "adapter" / "adapter_config.json").is_file()
    cuts = pl.read_parquet(taught / "logbook.parquet")["tau_m1"].to_list()
    assert cuts[0] == cuts[1] != cuts[2]
    assert ":" in json.loads((taught / "thresholds.json").read_text())["reward_id"]


def test_what_is_asked_for_the_judge_is_no_rollout(taught: Path) -> None:
    logbook = pl.read_parquet(taught / "logbook.parquet")
    assert summary(taught)["rollouts"] == logbook["rollouts"].sum()


def test_every_token_is_on_some_account_and_survivors_are_counted_alike(taught: Path) -> None:
    books = json.loads((taught / "spending.json").read_text())
    rows, total = books["operators"], books["total"]
    for name in ("requests", "prompt_tokens", "completion_tokens"):
        assert sum(row[name] for row in rows) == total[name]
    assert sum(row["survived"] for row in rows) == summary(taught)["survivors"]
    (made,) = [row for row in rows if row["operator"] == "judge"]
    assert made["generation"] == 2
    assert made["tokens_judging"] == made["prompt_tokens"] + made["completion_tokens"] > 0


def test_a_run_whose_tables_are_lost_is_made_again_without_training_again(
    model: Path, taught: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(taught, tmp_path / "run")
    for file in [*copy.glob("*.parquet"), *copy.glob("*.json*"), *(copy / "generations").iterdir()]:
        file.unlink()
    adapter = copy / "judge" / "0001" / "iteration-1" / "adapter" / "adapter_model.safetensors"
    before = adapter.stat().st_mtime_ns
    run(parse_config(tables(model)), copy, resume=True)
    assert adapter.stat().st_mtime_ns == before
    assert results(copy) == results(taught)
    assert summary(copy)["prompt_tokens"] == summary(taught)["prompt_tokens"]


def test_the_embedded_engine_makes_the_pairs_that_a_judge_learns_from(
    model: Path, smollm2: Path, tmp_path: Path
) -> None:
    """The real engine; the judge is small, since that of its own size takes minutes (docs/judge.md has such a run)."""
    pytest.importorskip("trl")
    config = tables(model, samples=8)
    config["pool"] |= {"limit": 8}
    config["engine"] = {"kind": "llamacpp", "slots": 8, "sampling": {"n": 2, "max_tokens": 24}}
    run(parse_config(config), tmp_path / "run")
    (note,) = [
        warning for warning in summary(tmp_path / "run")["warnings"] if warning.startswith("before generation 2")
    ]
    assert "the judge was trained on" in note
    adapter = tmp_path / "run" / "judge" / "0001" / "iteration-1" / "adapter"
    assert adapter_id(adapter) in json.loads((tmp_path / "run" / "thresholds.json").read_text())["reward_id"]
    assert len(pl.read_parquet(tmp_path / "run" / "logbook.parquet")) == 3


def test_survivors_may_keep_the_rewards_they_have(model: Path, taught: Path, tmp_path: Path) -> None:
    run(parse_config(tables(model, rewards="keep")), tmp_path / "run")
    (note,) = [warning for warning in summary(tmp_path / "run")["warnings"] if warning.startswith("before generation")]
    assert note.endswith("survivors keep the rewards they have")


def test_too_few_survivors_leave_the_judge_as_it_is(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    few = tables(model)
    few["selection"] = {"policy": "absolute", "min_reward": 2.0}
    run(parse_config(few), tmp_path / "run")
    (note,) = [warning for warning in summary(tmp_path / "run")["warnings"] if warning.startswith("before generation")]
    assert note == "before generation 2: the judge stays as it is: 0 usable pairs came out of the survivors"


def test_a_training_that_fails_ends_the_run_and_leaves_no_note(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with the old judge, the run would not be the one that is made when it is resumed."""
    pytest.importorskip("trl")

    def full(*arguments: object, **named: object) -> None:
        raise FittestError("disk is full")

    monkeypatch.setattr("fittest.runs.judge.retrain.iterate", full)
    with pytest.raises(FittestError, match="disk is full"):
        run(parse_config(tables(model)), tmp_path / "run")


def test_an_evaluate_of_ones_own_would_not_see_the_trained_judge_and_is_refused(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")

    def own(toolbox: Any) -> None:
        toolbox.register("evaluate", lambda individual: (0.5, 10.0, 0.1))

    with pytest.raises(FittestError, match="retrain_every needs the run's own evaluate and reward"):
        run(parse_config(tables(model)), tmp_path / "evaluate", customise=own)
    with pytest.raises(FittestError, match="retrain_every needs the run's own evaluate and reward"):
        run(parse_config(tables(model)), tmp_path / "reward", reward=lambda prompts, responses: [0.5] * len(responses))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"kind": "null"}}, r'\[judge\] is for reward kind "pairwise"'),
        ({"run": {"mode": "steady-state"}}, "needs generations"),
        ({"selection": {"policy": "pareto"}}, "needs cuts that can be fitted to the pool again"),
        ({"judge": {"retrain_every": 1}}, "need model"),
        ({"reward": {"kind": "pairwise", "votes": 3}}, "tells its probability instead"),
    ],
)
def test_what_cannot_be_taught_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config({**tables(Path("model")), **changes})
