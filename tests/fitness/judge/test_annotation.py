"""Rejection sampling of judgments against the construction label."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fittest.evo.records import Completion, Failure
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.annotation import (
    Annotated,
    Judgment,
    agreement,
    balanced,
    contrasting_rows,
    evenly_placed,
    judgments_of,
    training_rows,
)
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Side, parse_verdict

SEEDS = SeedTree(9)
PAIR = Pair("Name a sea.", "The Baltic.", "Lake Geneva.", "A", "open qa")


def row(label: Side, *texts: str, task: str = "x", subset: str = "") -> Annotated:
    judgments = [Judgment(text, parse_verdict(text)) for text in texts]
    return Annotated.draw(Pair(task, "one", "two", label, subset), judgments, seeds=SEEDS, iteration=1)


def completions(*texts: str) -> list[Completion | Failure]:
    return [Completion(text, "stop", 1, 1) for text in texts]


def test_pairs_all_won_from_one_place_are_turned_round_by_half() -> None:
    chosen_first = [Pair(f"x{number}", "good", "bad", "A") for number in range(9)]
    found = evenly_placed(chosen_first, SEEDS)
    assert [pair.winner for pair in found] == ["good"] * 9
    assert [pair.label for pair in found].count("B") == 4
    assert found == evenly_placed(chosen_first, SEEDS)
    assert evenly_placed(found, SEEDS) == found
    mostly = [*chosen_first, Pair("y", "bad", "good", "B")]
    assert [pair.label for pair in evenly_placed(mostly, SEEDS)].count("B") == 5


def test_one_of_the_right_judgments_is_drawn_and_all_of_them_can_be() -> None:
    texts = ["[[B]]", "so [[A]]", "no idea", "thus [[A]]"]
    kept = {row("A", *texts, task=str(number)).kept for number in range(40)}
    assert kept == {1, 3}
    assert {row("A", *texts, task=str(number)).opposed for number in range(40)} == {0}
    assert row("A", *texts) == row("A", *texts)


def test_a_pair_without_a_right_judgment_is_dropped() -> None:
    found = row("B", "[[A]]", "hm", "[[A]][[B]]")
    assert (found.kept, found.dropped) == (None, "no judgment agrees with the label")
    assert training_rows([found]) == contrasting_rows([found]) == []


def test_a_and_b_win_equally_often_among_what_is_trained_on() -> None:
    rows = [row("A", "[[A]]", task=str(number)) for number in range(7)]
    rows += [row("B", "[[B]]", task=f"b{number}") for number in range(3)]
    rows += [row("B", "[[A]]", task="wrong")]
    found = balanced(rows, seeds=SEEDS, iteration=1)
    assert [written["label"] for written in training_rows(found)].count("A") == 3
    assert [written["label"] for written in training_rows(found)].count("B") == 3
    assert sum(one.dropped == "left out so that A and B win equally often" for one in found) == 4
    assert found == balanced(rows, seeds=SEEDS, iteration=1)
    assert found != balanced(rows, seeds=SEEDS, iteration=2)


def test_a_training_row_is_the_question_and_the_judgment_that_was_right() -> None:
    found = Annotated.draw(
        PAIR, [Judgment("It is a sea. [[A]]\n", "A"), Judgment("[[B]]", "B")], seeds=SEEDS, iteration=1
    )
    (written,) = training_rows([found])
    assert written["completion"] == [{"role": "assistant", "content": "It is a sea. [[A]]"}]
    assert "The Baltic." in written["prompt"][0]["content"]
    (preference,) = contrasting_rows([found])
    assert preference["chosen"] == written["completion"]
    assert preference["rejected"] == [{"role": "assistant", "content": "[[B]]"}]


def test_the_share_that_agrees_counts_unreadable_judgments_too() -> None:
    rows = [row("A", "[[A]]", "hm", subset="coding"), row("B", "[[A]]", "[[B]]", subset="other", task="y")]
    found = agreement(rows)
    assert found["agreement"] == 0.5
    assert found["readable"] == found["unforced"] == 0.75
    assert found["by_category"]["coding"]["agreement"] == 0.5
    assert (found["pairs"], found["trained_on"]) == (2, 2)


def test_a_judgment_without_a_verdict_gets_one_by_the_models_own_odds() -> None:
    asked: list[str] = []

    def log_odds(text: str) -> float:
        asked.append(text)
        return math.log(3) if text == "hm" else math.nan

    draws = np.random.default_rng(0).random(2000).tolist()
    found = judgments_of(completions(*["hm"] * 2000), log_odds=log_odds, draws=draws)
    assert np.mean([judgment.verdict == "A" for judgment in found]) == pytest.approx(0.75, abs=0.03)
    assert {judgment.text for judgment in found} == {"hm\n\n[[A]]", "hm\n\n[[B]]"}
    assert all(judgment.forced and parse_verdict(judgment.text) == judgment.verdict for judgment in found)
    sure = judgments_of(completions("hm"), log_odds=lambda text: -1e-9, draws=[0.0], temperature=0.0)
    assert sure[0].verdict == "B"
    others = completions("[[A]]", "[[A]] or [[B]]", "too long")
    left = judgments_of([*others, Failure("gone")], log_odds=log_odds, draws=[0.5] * 4)
    assert [(judgment.verdict, judgment.forced) for judgment in left] == [("A", False)] + [(None, False)] * 3


def test_nothing_is_forced_unless_a_model_can_be_asked() -> None:
    (judgment,) = judgments_of(completions("hm"), log_odds=None, draws=[0.1])
    assert judgment == Judgment("hm", None)
