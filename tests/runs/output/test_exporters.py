"""Every format opens in `datasets`, and those of TRL in its own functions; verl's and verifiers' have their keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.runs.output.export import export, pair_rows
from fittest.runs.output.exporters import EXPORTERS
from tests.runs.output.exported_run import SYSTEM, frame, responses, survivor, write_run

SURVIVORS = frame(
    survivor("a", licence=None, chosen="Good: [[a]] \n\n2 < 3", reward_id="judge", chosen_truncated=False),
    survivor("b", chosen="Gut: „ä“ 🙂", reward_id="judge", chosen_truncated=False),
    survivor("c", chosen_reward=3.5, reward_id="judge", chosen_truncated=None),
)
ANSWERS = [answer for row in SURVIVORS.iter_rows(named=True) for answer in responses(row, (1.0, 2.0, None, 3.0))]
ANSWERS[1]["reasoning"] = "It asks for a."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), SURVIVORS, ANSWERS, kind="null", system=SYSTEM)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real tokenizer with a chat template."""
    from transformers import AutoTokenizer

    from tests.tiny_model import make_tiny_model

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def opened(run: Path, tmp_path: Path) -> Callable[..., Any]:
    """Exports a format and opens the file with `datasets`."""

    def open_(to: str, suffix: str = "jsonl") -> Any:
        from datasets import load_dataset

        result = export(run, to=to, out=tmp_path / f"out.{suffix}")
        kind = "parquet" if suffix == "parquet" else "json"
        return load_dataset(kind, data_files=str(result.out), split="train", cache_dir=str(tmp_path / "cache"))

    return open_


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("to", sorted(EXPORTERS.built_in))
def test_every_format_opens_in_datasets(
    opened: Callable[..., Any], run: Path, tmp_path: Path, to: str, suffix: str
) -> None:
    pytest.importorskip("datasets")
    rows = opened(to, suffix).to_list()
    lines = export(run, to=to, out=tmp_path / "lines.jsonl").out.read_text(encoding="utf-8").splitlines()
    assert rows == [json.loads(line) for line in lines]
    assert len(rows) == {"kto": 6, "responses": 12}.get(to, 3)


WRITTEN = {
    "trl-preference": ("prompt", "chosen", "rejected"),
    "reward-pairs": ("chosen", "rejected"),
    "kto": ("prompt", "completion"),
    "trl-sft": ("text",),
    "grpo": ("prompt",),
}
"""What TRL's `apply_chat_template` makes of a row of each of its formats."""


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("to", WRITTEN)
def test_trl_sets_every_row_in_the_chat_template(
    opened: Callable[..., Any], tokenizer: Any, to: str, suffix: str
) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    for row in opened(to, suffix):
        assert data_utils.is_conversational(row)
        written = data_utils.maybe_apply_chat_template(row, tokenizer)
        whole = "".join(written[key] for key in WRITTEN[to])
        assert whole.startswith(f"<system>{SYSTEM}</s><user>Prompt {row['prompt_id']}?</s>")
        if to != "grpo":
            answers = SURVIVORS.filter(pl.col("prompt_id") == row["prompt_id"]).row(0, named=True)
            there = answers["chosen"] if row.get("label", True) else answers["rejected"]
            assert f"<assistant>{there}</s>" in whole


def test_trl_unpairs_preferences_into_the_rows_of_kto(opened: Callable[..., Any]) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    unpaired = data_utils.maybe_unpair_preference_dataset(opened("trl-preference"))
    keys = ("prompt", "completion", "label", "prompt_id")
    ours = opened("kto")

    def told(rows: Any) -> list[str]:
        return sorted(json.dumps([row[key] for key in keys]) for row in rows)

    assert told(unpaired) == told(ours)
    assert data_utils.maybe_unpair_preference_dataset(ours).to_list() == ours.to_list()


def test_trl_finds_the_prompt_of_reward_pairs_and_leaves_that_of_preferences(opened: Callable[..., Any]) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    pairs, preferences = opened("reward-pairs"), opened("trl-preference")
    for pair, preference in zip(pairs, preferences, strict=True):
        found = data_utils.maybe_extract_prompt(pair)
        assert found == {key: preference[key] for key in ("prompt", "chosen", "rejected")}
        assert data_utils.maybe_extract_prompt(preference) == preference


def test_reward_pairs_have_the_gap_as_margin_in_trls_collator(opened: Callable[..., Any]) -> None:
    collators = pytest.importorskip("trl.trainer.reward_trainer")
    rows = opened("reward-pairs").to_list()
    assert [row["margin"] for row in rows] == [1.0, 1.0, 2.5]
    collate = collators.DataCollatorForPreference(pad_token_id=0)
    batch = collate([{"chosen_ids": [1, 2], "rejected_ids": [3], **row} for row in rows])
    assert batch["margin"].tolist() == [1.0, 1.0, 2.5]


def test_grpo_rows_have_what_a_reward_function_needs(opened: Callable[..., Any]) -> None:
    rows = opened("grpo").to_list()
    # GRPOTrainer passes every column but the prompt by name; these names it sets itself
    taken = {"completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}
    assert not taken & set(rows[0])
    assert rows[0]["reference"] == "Good: [[a]] \n\n2 < 3"
    assert rows[0]["reward_mean"] == 2.0
    assert rows[0]["reward_std"] == pytest.approx((2 / 3) ** 0.5)
    assert rows[0]["prompt_id"] == "a"
    assert rows[0]["licence"] is None


def test_verl_rows_have_the_keys_of_its_datasets(opened: Callable[..., Any]) -> None:
    for place, row in enumerate(opened("verl", "parquet")):
        assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        assert row["reward_model"] == {"style": "model", "ground_truth": SURVIVORS["chosen"][place]}
        assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (place, "train")


def test_a_licence_that_no_row_has_is_still_text_inside_a_column(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", frame(survivor("a", licence=None)))
    schema = pl.read_parquet_schema(export(run, to="verl", out=tmp_path / "x.parquet").out)
    assert dict(schema["extra_info"])["licence"] == pl.String  # type: ignore[call-overload]


def test_prime_rl_rows_have_the_keys_of_verifiers(opened: Callable[..., Any]) -> None:
    for place, row in enumerate(opened("prime-rl")):
        assert set(row) == {"example_id", "prompt", "answer", "info"}
        assert (row["example_id"], row["answer"]) == (place, SURVIVORS["chosen"][place])
        assert json.loads(row["info"])["prompt_id"] == SURVIVORS["prompt_id"][place]


def test_responses_are_all_there_with_their_prompt_and_reasoning_apart(opened: Callable[..., Any]) -> None:
    rows = opened("responses").to_list()
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(name, s) for name in "abc" for s in range(4)]
    assert (rows[1]["response"], rows[1]["reasoning"]) == ("Good: [[a]] \n\n2 < 3", "It asks for a.")
    assert rows[1]["prompt"] == "Prompt a?"
    assert [row["reward"] for row in rows[:4]] == [1.0, 2.0, None, 3.0]
    assert rows[0]["licence"] is None
    assert rows[0]["source"] == "forum"


def test_a_run_without_a_system_prompt_begins_with_the_user(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", SURVIVORS, kind="null")
    row = json.loads(export(plain, to="trl-sft", out=tmp_path / "x.jsonl").out.read_text().splitlines()[0])
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]


def test_pairs_of_a_run_begin_with_its_system_prompt() -> None:
    for row in pair_rows(SURVIVORS, SYSTEM):
        assert row["prompt"][0] == {"role": "system", "content": SYSTEM}
        assert "reward_id" not in row


def test_rewards_of_two_judges_are_told_apart_in_every_row(tmp_path: Path) -> None:
    mixed = frame(survivor("a", reward_id="before"), survivor("b", reward_id="after"))
    run = write_run(tmp_path / "run", mixed)
    result = export(run, to="trl-preference", out=tmp_path / "x.jsonl")
    assert [json.loads(line)["reward_id"] for line in result.out.read_text().splitlines()] == ["before", "after"]
    assert "the rewards are those of 2 judges and do not compare" in result.card.read_text()
    assert [row["reward_id"] for row in pair_rows(mixed)] == ["before", "after"]
