"""The whole loop of the self-taught evaluator on a tiny random model: select, pairs, annotate, train, eval, reload."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from fittest.runs.cli import main
from fittest.runs.judge.annotate import annotate
from fittest.runs.judge.config import load_judge_config
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.training

SETTINGS = """
[judge]
seed = 4
samples = 6
[judge.sampling]
temperature = 1.0
top_p = 1.0
max_tokens = 8
[answers.sampling]
temperature = 1.0
top_p = 1.0
max_tokens = 120
[labels.sampling]
temperature = 1.5
top_p = 1.0
max_tokens = 64
[train]
learning_rate = 1e-2
batch_size = 4
rank = 8
[engine]
kind = "transformers"
model = "model"
device = "cpu"
slots = 8
"""
TASKS = [f"Name {number} seas and say why." for number in range(48)]


def judge(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["judge", *map(str, arguments)])


def well(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its judge.toml, and instructions."""
    folder = tmp_path_factory.mktemp("place")
    make_tiny_model(folder / "model")
    (folder / "judge.toml").write_text(SETTINGS)
    rows = ({"prompt": task, "source": "tests"} for task in TASKS)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def selected(place: Path) -> Path:
    out = place / "selected"
    well(judge("select", place / "tasks.jsonl", "--config", place / "judge.toml", "--out", out))
    return out


@pytest.fixture(scope="module")
def pairs(place: Path, selected: Path) -> Path:
    out = place / "pairs"
    well(
        judge(
            "pairs", selected / "selected.jsonl", "--config", place / "judge.toml", "--out", out,
            "--variant", "modified-in-two-steps", "--held-out", "0.25",
        )
    )  # fmt: skip
    return out


def pairs_in(folder: Path) -> int:
    return len(lines(folder / "pairs.jsonl"))


def issued(journal: Path) -> int:
    with closing(sqlite3.connect(journal)) as database:
        (count,) = database.execute("SELECT count(*) FROM issued").fetchone()
    return int(count)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_select_keeps_what_was_labelled_as_wanted_and_says_why_not_the_rest(
    place: Path, selected: Path, tmp_path: Path
) -> None:
    labels = pl.read_parquet(selected / "labels.parquet")
    assert labels["prompt"].to_list() == TASKS
    assert set(labels["category"]) == {"coding", "open qa", None}
    assert set(labels.filter(pl.col("category").is_null())["reason"]) == {"no label could be read"}
    kept = lines(selected / "selected.jsonl")
    assert [row["prompt"] for row in kept] == labels.drop_nulls("category")["prompt"].to_list()
    assert all(row["source"] == "tests" for row in kept)

    few = ("--out", tmp_path, "--category", "open qa", "--min-complexity", "5", "--size", "2")
    result = well(judge("select", place / "tasks.jsonl", "--config", place / "judge.toml", *few))
    assert [(row["category"], row["complexity"]) for row in lines(tmp_path / "selected.jsonl")] == [("open qa", 7)] * 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["left_out"]["category coding"] == labels["category"].to_list().count("coding")
    assert "2 of 48 instructions selected" in result.output


def test_one_key_of_the_labels_sampling_leaves_the_others_greedy(tmp_path: Path) -> None:
    (tmp_path / "judge.toml").write_text("[labels.sampling]\nmax_tokens = 64\n")
    sampling = load_judge_config(tmp_path / "judge.toml").labels.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.0, 1.0, 64)


def test_a_selection_that_is_empty_is_named_by_the_next_step(place: Path, tmp_path: Path) -> None:
    (tmp_path / "selected.jsonl").write_text("")
    result = judge("pairs", tmp_path / "selected.jsonl", "--config", place / "judge.toml", "--out", tmp_path / "out")
    assert (result.exit_code, "selected.jsonl: holds no rows" in result.output) == (2, True)


def test_pairs_are_told_apart_and_shown(pairs: Path) -> None:
    made = [*lines(pairs / "pairs.jsonl"), *lines(pairs / "held_out.jsonl")]
    summary = json.loads((pairs / "summary.json").read_text())
    assert len(made) == summary["pairs"] + summary["held_out"] >= 8
    assert sum(summary["rejected"].values()) + len(made) == summary["instructions"]
    assert all(row["response_a"] != row["response_b"] and row["modified_instruction"] for row in made)
    labels = [row["label"] for row in lines(pairs / "pairs.jsonl")]
    assert abs(labels.count("A") - labels.count("B")) <= 1
    report = (pairs / "report.md").read_text()
    assert "## Pair 1" in report
    assert str(made[0]["instruction"]) in report


def test_a_pair_needs_the_rewards_consent_where_that_is_asked(
    place: Path, tmp_path: Path, minilm_folder: Path
) -> None:
    arguments = ("pairs", place / "tasks.jsonl", "--config", place / "judge.toml", "--limit", "8", "--held-out", "0")
    variant = ("--variant", "worse")
    well(judge(*arguments, *variant, "--out", tmp_path / "all"))
    well(judge(*arguments, *variant, "--out", tmp_path / "liked", "--agree-reward", "head"))
    found = json.loads((tmp_path / "liked" / "summary.json").read_text())
    every = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert 0 < found["pairs"] == every["pairs"] - found["rejected"]["the reward does not prefer the winner"]
    well(judge("eval", tmp_path / "liked" / "pairs.jsonl", "--reward", "head", "--out", tmp_path / "eval"))
    assert json.loads((tmp_path / "eval" / "eval.json").read_text())["all"]["consistent"] == 100


def test_a_model_that_keeps_to_no_form_gives_no_pairs_and_the_reason(place: Path, tmp_path: Path) -> None:
    result = judge("pairs", place / "tasks.jsonl", "--config", place / "judge.toml", "--out", tmp_path, "--limit", "3")
    assert result.exit_code == 2
    assert "no pair came out of 3 instructions" in result.output
    assert {row["reason"] for row in lines(tmp_path / "rejected.jsonl")} == {
        "the reply holds no changed instruction with its answer"
    }


def test_annotate_writes_right_judgments_only_and_the_same_file_twice(
    place: Path, pairs: Path, tmp_path: Path
) -> None:
    files = []
    for name in ("one", "two"):
        arguments = ("annotate", pairs / "pairs.jsonl", "--config", place / "judge.toml", "--out", tmp_path / name)
        well(judge(*arguments, "--force"))
        files.append((tmp_path / name / "train.jsonl").read_bytes())
    assert files[0] == files[1]
    rows = lines(tmp_path / "one" / "train.jsonl")
    assert rows
    assert all(f"[[{row['label']}]]" in row["completion"][0]["content"] for row in rows)  # type: ignore[index]
    assert [row["label"] for row in rows].count("A") * 2 == len(rows)
    judgments = pl.read_parquet(tmp_path / "one" / "judgments.parquet")
    assert judgments["kept"].sum() == len(rows)
    agreement = json.loads((tmp_path / "one" / "agreement.json").read_text())
    assert agreement["agreement"] == pytest.approx(
        (judgments["verdict"] == judgments["label"]).sum() / judgments.height
    )
    assert set(agreement["by_category"]) == {"coding", "open qa"}
    assert 0 <= agreement["unforced"] < agreement["readable"]


def train(place: Path, pairs: Path, out: Path, *more: str) -> Sequence[str | Path]:
    return (
        "train", pairs / "pairs.jsonl", "--held-out", pairs / "held_out.jsonl", "--config", place / "judge.toml",
        "--out", out, "--force", "--iterations", "2", *more,
    )  # fmt: skip


def test_two_iterations_train_from_the_seed_and_the_last_adapter_is_loaded_again(
    place: Path, pairs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("trl", reason="training needs trl and peft")
    out = tmp_path / "judge"
    result = well(judge(*train(place, pairs, out, "--gguf")))
    assert (out / "iteration-2" / "adapter.gguf").stat().st_size > 1000
    summary = json.loads((out / "summary.json").read_text())
    assert [row["agreement"]["iteration"] for row in summary["iterations"]] == [1, 2]
    assert len(summary["held_out"]) == 3
    assert "iteration 2: AB" in result.output
    config = json.loads((out / "iteration-2" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place / "model")
    fingerprints = [row["agreement"]["judge"] for row in summary["iterations"]]
    assert fingerprints[1].startswith(fingerprints[0] + ":")

    adapter = ("--set", f"engine.adapter={out / 'iteration-2' / 'adapter'}")
    held_out = ("eval", pairs / "held_out.jsonl", "--likelihood", "--config", place / "judge.toml")
    well(judge(*held_out, *adapter, "--out", tmp_path / "eval"))
    reloaded = json.loads((tmp_path / "eval" / "eval.json").read_text())["all"]
    assert reloaded["mean"] == summary["held_out"][2]["mean"]

    written, asked = (out / "summary.json").read_bytes(), issued(out / "journal.sqlite")
    well(judge(*train(place, pairs, out)))
    assert (out / "summary.json").read_bytes() == written
    assert issued(out / "journal.sqlite") == asked

    # the same judgments, trained on outside the loop, give the same adapter, whatever lay there
    again = (
        "train",
        "--config",
        place / "judge.toml",
        "--held-out",
        pairs / "held_out.jsonl",
        "--out",
        tmp_path / "again",
    )
    well(judge(*again, "--annotated", out / "iteration-2" / "train.jsonl", "--gguf"))
    well(judge(*again, "--annotated", out / "iteration-1" / "train.jsonl"))
    assert not (tmp_path / "again" / "adapter.gguf").exists()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / "adapter" / name).read_bytes() == (
            out / "iteration-1" / "adapter" / name
        ).read_bytes()

    # killed while it trained: the judgments are there, the iteration is not finished
    judgments = (out / "iteration-2" / "train.jsonl").read_bytes()
    (out / "iteration-2" / "training.json").unlink()
    well(judge(*train(place, pairs, out)))
    assert (out / "iteration-2" / "train.jsonl").read_bytes() == judgments
    assert (out / "summary.json").read_bytes() == written
    assert issued(out / "journal.sqlite") == asked
    full = judge(*train(place, pairs, out, "--gguf", "--set", "train.method=full"))
    assert (full.exit_code, "--gguf converts adapters" in full.output) == (2, True)
    changed = judge(*train(place, pairs, out, "--set", "train.rank=4"))
    assert changed.exit_code == 2
    assert "was begun otherwise: train.rank was 8, now 4" in changed.output


def test_an_iteration_that_leaves_nothing_to_learn_ends_the_loop_with_the_judge_of_the_last(
    place: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl", reason="training needs trl and peft")

    def nothing_the_second_time(*arguments: Any, iteration: int, **named: Any) -> dict[str, Any]:
        found = annotate(*arguments, iteration=iteration, **named)
        return found if iteration == 1 else {**found, "trained_on": 0, "dropped": {"none is right": 3, "balance": 0}}

    monkeypatch.setattr("fittest.runs.judge.train.annotate", nothing_the_second_time)
    result = well(judge(*train(place, pairs, tmp_path / "judge")))
    summary = json.loads((tmp_path / "judge" / "summary.json").read_text())
    ended = f"iteration 2: none of {pairs_in(pairs)} pairs is left to train on (none is right: 3)"
    assert f"{ended}; the judge stays that of iteration 1" in result.output
    assert [row["agreement"]["iteration"] for row in summary["iterations"]] == [1]
    assert (len(summary["held_out"]), summary["ended"]) == (2, ended)


def test_nothing_to_train_on_is_said_with_its_reason(place: Path, pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="training needs trl and peft")
    (tmp_path / "one.jsonl").write_text((pairs / "pairs.jsonl").read_text().partition("\n")[0])
    alone = ("train", tmp_path / "one.jsonl", "--config", place / "judge.toml", "--out", tmp_path / "out")
    forced, silent = judge(*alone, "--force"), judge(*alone, "--set", "judge.sampling.max_tokens=1")
    assert (forced.exit_code, "--force draws" in forced.output) == (2, False)
    assert "none of 1 pairs is left to train on (" in forced.output
    assert "was begun otherwise" in silent.output
    silent = judge(*alone[:-1], tmp_path / "silent", "--set", "judge.sampling.max_tokens=1")
    assert "(no judgment agrees with the label: 1); --force draws verdicts" in silent.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give PAIRS to annotate and train on, or --annotated FILE"),
        (["--annotated", "tasks.jsonl"], "line 1: expected prompt, completion, each a list of turns"),
        (["--annotated", "words.jsonl"], "line 1: expected prompt, completion, each a list of turns"),
        (["--annotated", "tasks.jsonl", "--force"], "--force and --iterations are for annotating"),
        (["--annotated", "none.jsonl"], "none.jsonl: no such file"),
        (["--annotated", "tasks.jsonl", "--set", "engine.adapter=model"], "trained from the bare seed model"),
    ],
)
def test_training_on_what_is_no_annotation_is_refused(
    place: Path, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "words.jsonl").write_text('{"prompt": ["x"], "completion": []}')
    result = judge("train", *arguments, "--config", place / "judge.toml", "--out", tmp_path)
    assert result.exit_code == 2
    assert message in result.output


STAGES = {
    "select": (["select", "tasks.jsonl", "--limit", "16"], 8, ("labels.parquet", "selected.jsonl")),
    "pairs": (
        ["pairs", "selected/selected.jsonl", "--variant", "modified-in-two-steps", "--limit", "8"],
        8,
        ("pairs.jsonl", "held_out.jsonl", "rejected.jsonl", "report.md"),
    ),
    "annotate": (
        ["annotate", "pairs/pairs.jsonl", "--force", "--set", "judge.sampling.max_tokens=40"],
        8,
        ("train.jsonl", "preferences.jsonl", "agreement.json"),
    ),
    "train": (
        ["train", "pairs/pairs.jsonl", "--held-out", "pairs/held_out.jsonl", "--force", "--iterations", "2"],
        48,
        (
            "iteration-2/agreement.json",
            "iteration-2/train.jsonl",
            "iteration-2/adapter/adapter_model.safetensors",
            "iteration-2/adapter/adapter_config.json",
            "summary.json",
        ),
    ),
}
"""A command, the replies after which it is killed, and the files that it writes."""


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_any_stage_it_goes_on_without_asking_twice(
    place: Path, pairs: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stage == "train":
        pytest.importorskip("trl", reason="training needs trl and peft")
    monkeypatch.chdir(place)
    command, enough, files = STAGES[stage]
    command = [*command, "--config", "judge.toml", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    well(judge(*command, whole))
    program = [sys.executable, "-m", "fittest.runs.cli", "judge", *command, str(killed)]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = killed / "journal.sqlite"
    deadline = time.monotonic() + 90
    while _replies(journal) < enough and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert enough <= _replies(journal) <= _replies(whole / "journal.sqlite")
    assert not all((killed / name).exists() for name in files)
    well(judge(*command, killed))
    assert _replies(journal) == _replies(whole / "journal.sqlite")
    in_flight = 8
    assert issued(journal) <= issued(whole / "journal.sqlite") + in_flight
    for name in files:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def _replies(journal: Path) -> int:
    if not journal.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])
    except sqlite3.Error:
        return 0
