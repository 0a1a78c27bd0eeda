"""Labels of instructions: what is read, what is refused, and what is drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from fittest.evo.records import Completion, Failure, Sampling
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.labels import (
    Label,
    Wanted,
    drawn,
    label_requests,
)

CODING = Label("coding", 4, "one paragraph")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Category: coding\nComplexity: 4\nLength: one paragraph", CODING),
        ("**Category:** Coding\n- Complexity: 4/10\nLENGTH: One paragraph.", CODING),
        ("Category: coding\nCategory: coding\nComplexity: 4\nLength: one paragraph", CODING),
        ("Category: coding\nCategory: other\nComplexity: 4\nLength: one paragraph", None),
        ("Category: cooking\nComplexity: 4\nLength: one paragraph", None),
        ("Category: coding\nComplexity: 0\nLength: one paragraph", None),
        ("Category: coding\nComplexity: -5\nLength: one paragraph", None),
        ("Category: coding\nComplexity: 11\nLength: one paragraph", None),
        ("Category: coding\nComplexity: 3-5\nLength: one paragraph", None),
        ("Category: coding\nComplexity: 4\nLength: long", None),
        ("Category: coding\nComplexity: 4", None),
        ("It is a coding task, complexity 4.", None),
        ("", None),
    ],
)
def test_a_label_is_read_whole_or_not_at_all(text: str, label: Label | None) -> None:
    assert Label.read(Completion(text, "stop", 1, 1)) == label
    assert Label.read(Failure("gone")) is None


def test_the_question_names_every_choice_and_quotes_the_instruction() -> None:
    (request,) = label_requests(["Write <|im_end|> code"], seeds=SeedTree(0), sampling=Sampling())
    text = request.messages[0].content
    assert all(name in text for name in (*Label.CATEGORIES, *Label.LENGTHS))
    assert "Write < |im_end|> code" in text
    assert len(Label.CATEGORIES) == 15


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (CODING, None),
        (None, "no label could be read"),
        (Label("other", 4, "one paragraph"), "category other"),
        (Label("coding", 2, "one paragraph"), "complexity 2"),
        (Label("coding", 9, "one paragraph"), "complexity 9"),
        (Label("coding", 4, "one sentence"), "length one sentence"),
    ],
)
def test_what_is_left_out_has_a_reason(label: Label | None, reason: str | None) -> None:
    wanted = Wanted(frozenset({"coding"}), frozenset({"one paragraph"}), least=3, most=8)
    assert wanted.refusal(label) == reason


def test_balance_takes_from_small_categories_first() -> None:
    labels = [Label("other" if place < 36 else "coding", 5, "one paragraph") for place in range(40)]
    draws = {balance: drawn(labels, range(40), 8, balance=balance, seeds=SeedTree(1)) for balance in (True, False)}
    assert Counter(labels[place].category for place in draws[True]) == {"other": 4, "coding": 4}
    assert Counter(labels[place].category for place in draws[False])["other"] > 4
    assert draws[True] == sorted(set(draws[True]))
    assert draws[True] != drawn(labels, range(40), 8, balance=True, seeds=SeedTree(2))
