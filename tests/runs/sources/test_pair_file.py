"""Pairs from files in the layouts in which they are published, and what is told of a file that is none of them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fittest.evo.errors import FittestError
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Verdicts
from fittest.runs.sources.pair_file import PairTable, read_pairs, write_pairs


def table(folder: Path, *rows: dict[str, Any]) -> PairTable:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(path)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


def test_labelled_responses_bring_their_recorded_verdicts(tmp_path: Path) -> None:
    row = {
        "subset": "Natural", "instruction": "x", "response_a": "one", "response_b": "two", "label": "B",
        "recorded_gpt4_verdict": "Output (b)", "recorded_gpt4_verdict_swapped": "neither",
    }  # fmt: skip
    found = table(tmp_path, row)
    assert found.pairs == (Pair("x", "one", "two", "B", "Natural"),)
    assert found.recorded == (Verdicts("B", None),)


def test_ties_are_left_out_and_told(tmp_path: Path) -> None:
    row = {"instruction": "x", "response_a": "one", "response_b": "two", "label": "tie"}
    found = table(tmp_path, row, {**row, "label": "A"})
    assert [pair.label for pair in found.pairs] == ["A"]
    assert found.warnings == ("1 pairs without a better answer are left out",)
    assert found.recorded is None


def test_llmbar_as_published(tmp_path: Path) -> None:
    found = table(tmp_path, {"input": "x", "output_1": "one", "output_2": "two", "label": 2})
    assert found.pairs == (Pair("x", "one", "two", "B"),)


def test_reward_bench_and_chats_have_the_chosen_answer_first(tmp_path: Path) -> None:
    plain = {"prompt": "x", "chosen": "good", "rejected": "bad", "subset": "math-prm"}
    chat = {"prompt": turns("x"), "chosen": [turns("", "good")[1]], "rejected": [turns("", "bad")[1]]}
    assert table(tmp_path, plain).pairs == (Pair("x", "good", "bad", "A", "math-prm"),)
    assert table(tmp_path, chat).pairs == (Pair("x", "good", "bad", "A"),)


def test_all_turns_of_a_chat_are_asked_and_a_missing_prompt_is_what_both_share(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, *turns("2+2?", "4", "Double it.")]
    good, bad = ({"role": "assistant", "content": text} for text in ("8", "5"))
    spelled = "System: Be brief.\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Double it."
    assert table(tmp_path, {"prompt": asked, "chosen": [good], "rejected": [bad]}).pairs == (
        Pair(spelled, "8", "5", "A"),
    )
    found = table(
        tmp_path,
        {"chosen": [*asked, good], "rejected": [*asked, bad]},
        {"chosen": [*asked[1:], good], "rejected": [*asked, bad]},
        {"chosen": [*turns("x"), good], "rejected": [*turns("x"), bad]},
    )
    assert found.pairs == (Pair(spelled, "8", "5", "A"), Pair("x", "8", "5", "A"))
    assert found.skipped == 1


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    tie = {"instruction": "x", "response_a": "one", "response_b": "two", "label": "tie"}
    table(tmp_path, {**tie, "label": "A"}, *[tie] * 9)
    found = read_pairs(tmp_path / "pairs.jsonl", limit=1)
    assert (len(found.pairs), found.ties) == (1, 0)
    assert len(read_pairs(tmp_path / "pairs.jsonl", labelled=False).pairs) == 10


def test_hh_dialogues_are_split_before_the_last_answer(tmp_path: Path) -> None:
    opening = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A sea?"
    found = table(
        tmp_path,
        {"chosen": f"{opening}\n\nAssistant: Baltic", "rejected": f"{opening}\n\nAssistant: no"},
        {"chosen": "\n\nHuman: A sea?\n\nAssistant: Baltic", "rejected": "\n\nHuman: A sea?\n\nAssistant: no"},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So", "rejected": "\n\nHuman: What?\n\nAssistant: no"},
    )
    assert found.pairs == (Pair(opening.strip(), "Baltic", "no", "A"), Pair("A sea?", "Baltic", "no", "A"))
    assert found.skipped == 1


def test_mt_bench_counts_the_turns_that_were_judged(tmp_path: Path) -> None:
    row = {
        "question_id": 81, "judge": "expert_0", "turn": 1, "winner": "model_b",
        "conversation_a": turns("q1", "a1", "q2", "a2"), "conversation_b": turns("q1", "b1", "q2", "b2"),
    }  # fmt: skip
    tie = {**row, "winner": "tie (inconsistent)"}
    found = table(tmp_path, row, {**row, "turn": 2, "winner": "model_a"}, tie)
    assert found.pairs == (
        Pair("q1", "a1", "b1", "B", "turn 1"),
        Pair("(1) q1\n\n(2) q2", "(1) a1\n\n(2) a2", "(1) b1\n\n(2) b2", "A", "turn 2"),
    )
    assert found.ties == 1
    assert table(tmp_path, row, {**row, "conversation_b": turns("other", "b1")}).skipped == 1


def test_helpsteer2_pairs_neighbours_by_helpfulness(tmp_path: Path) -> None:
    ratings = [("x", "one", 1), ("x", "two", 4), ("y", "alone", 2), ("z", "one", 3), ("z", "two", 3)]
    rows = [{"prompt": prompt, "response": text, "helpfulness": rating} for prompt, text, rating in ratings]
    found = table(tmp_path, *rows)
    assert (found.pairs, found.ties) == ((Pair("x", "one", "two", "B"),), 1)


def test_helpsteer2_preferences_are_negative_for_the_first(tmp_path: Path) -> None:
    row = {"prompt": "x", "response_1": "one", "response_2": "two"}
    found = table(tmp_path, *({**row, "preference_strength": strength} for strength in (-2, 1, 0)))
    assert [pair.label for pair in found.pairs] == ["A", "B"]
    assert found.ties == 1


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    pairs = (Pair("x\n", "one", "ümlaut", "B", "coding"), Pair("y", "one", "two", "A"))
    write_pairs(tmp_path / "out.jsonl", [(pair, {"note": 1}) for pair in pairs])
    assert read_pairs(tmp_path / "out.jsonl").pairs == pairs


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "answer": "y"}, r"not a file of pairs; its columns are 'prompt', 'answer'"),
        (
            {"instruction": "x", "response_a": "1", "response_b": "2", "label": "C"},
            r"line 1: label is 'C'; it should be",
        ),
        ({"instruction": 3, "response_a": "1", "response_b": "2", "label": "A"}, r"line 1: instruction is '3'"),
        ({"chosen": "hello", "rejected": "bye"}, r"line 1: holds no answer"),
        (
            {"instruction": "x", "response_a": "1", "response_b": "2", "label": 0},
            r"line 1: label is 0; it should be A, B, tie",
        ),
        ({"prompt": "x", "response": "y", "helpfulness": "very"}, r"line 1: helpfulness is 'very'"),
        ({"prompt": "x", "response": "y", "helpfulness": math.nan}, r"line 1: helpfulness is nan"),
        (
            {"prompt": "x", "response_1": "y", "response_2": "z", "preference_strength": math.nan},
            r"line 1: preference_strength is nan",
        ),
        (
            {"conversation_a": turns("q", "a"), "conversation_b": turns("q", "b"), "winner": "model_a", "turn": 0},
            r"line 1: turn is 0; it should be a whole number from 1 on",
        ),
        ({"instruction": "x", "response_a": "1", "response_b": "2", "label": "tie"}, r"no pair of which one"),
        (
            {"conversation_a": turns("q1", "a1"), "conversation_b": turns("q1", "b1"), "winner": "model_a", "turn": 2},
            r"line 1: conversation_a: expected 2 turns",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        table(tmp_path, row)


def test_the_shared_files_are_read(shared_data: Path) -> None:
    judging = shared_data / "judging"
    assert len(read_pairs(judging / "llmbar.jsonl").pairs) == 419
    pandalm = read_pairs(judging / "pandalm.jsonl")
    assert (len(pandalm.pairs), pandalm.ties) == (894, 105)
    path = judging / "hh_rlhf_helpful-base_test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        first = json.loads(next(file))
    pair = read_pairs(path).pairs[0]
    assert first["chosen"].endswith(pair.response_a)
    assert pair.instruction in first["chosen"]
