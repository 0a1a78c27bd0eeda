"""Accuracy in either order and in both, and the intervals around it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.fitness.judge.accuracy import accuracy, accuracy_by_subset
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Side, Verdicts

SIDES: list[Side | None] = ["A", "B", None]


def pairs_of(labels: list[Side], subset: str = "") -> list[Pair]:
    return [Pair(f"task {number}", "one", "other", label, subset) for number, label in enumerate(labels)]


def test_a_swapped_verdict_names_positions_after_the_swap() -> None:
    steady = accuracy(pairs_of(["A", "B"]), [Verdicts("A", "B"), Verdicts("B", "A")])
    assert (steady["ab"], steady["ba"], steady["consistent"], steady["chose_first"]) == (100, 100, 100, 50)
    always_first = accuracy(pairs_of(["A", "B"]), [Verdicts("A", "A")] * 2)
    assert [always_first[name] for name in ("ab", "ba", "mean", "consistent", "chose_first")] == [50, 50, 50, 0, 100]


def test_no_verdict_is_wrong_and_counted() -> None:
    figures = accuracy(pairs_of(["A", "A", "B"]), [Verdicts(None, "B"), Verdicts("A", None), Verdicts("B", "A")])
    assert figures["ab"] == figures["ba"] == pytest.approx(200 / 3)
    assert figures["consistent"] == pytest.approx(100 / 3)
    assert (figures["unread_ab"], figures["unread_ba"]) == (1, 1)
    assert accuracy(pairs_of(["A"]), [Verdicts(None, None)])["chose_first"] is None


@given(st.lists(st.sampled_from(list(product(["A", "B"], SIDES, SIDES))), min_size=1, max_size=12))
def test_orders_bound_each_other(rows: list[tuple[Side, Side | None, Side | None]]) -> None:
    figures = accuracy(pairs_of([label for label, _, _ in rows]), [Verdicts(ab, ba) for _, ab, ba in rows])
    ab, ba, mean, consistent = (float(figures[name] or 0) for name in ("ab", "ba", "mean", "consistent"))
    assert mean == pytest.approx((ab + ba) / 2)
    assert max(0.0, ab + ba - 100) - 1e-9 <= consistent <= min(ab, ba)
    for name, value in (("ab", ab), ("ba", ba), ("mean", mean), ("consistent", consistent)):
        low, high = float(figures[f"{name}_low"] or 0), float(figures[f"{name}_high"] or 0)
        assert 0 <= low <= value + 1e-9
        assert value - 1e-9 <= high <= 100


def test_subsets_stand_in_their_order_and_all_of_them_last() -> None:
    pairs = [*pairs_of(["A"], "easy"), *pairs_of(["A", "B"], "hard")]
    figures = accuracy_by_subset(pairs, [Verdicts("A", "B"), Verdicts("B", "A"), Verdicts("B", "A")])
    assert {name: (row["ab"], row["n"]) for name, row in figures.items()} == {
        "easy": (100, 1),
        "hard": (50, 2),
        "all": (pytest.approx(200 / 3), 3),
    }
    assert list(accuracy_by_subset(pairs_of(["A"]), [Verdicts("A", "A")])) == ["all"]


def test_pairs_without_a_label_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="label"):
        accuracy([Pair("x", "a", "b", None)], [Verdicts("A", "A")])


def test_margins_are_right_by_their_sign_and_count_where_there_are_any() -> None:
    pairs = pairs_of(["A", "A", "B", "B"])
    verdicts = [Verdicts("A", "A", margin) for margin in (0.5, -0.1, -2.0, None)]
    assert accuracy(pairs, verdicts)["averaged"] == 50
    assert "averaged" not in accuracy(pairs, [Verdicts("A", "A")] * 4)


def test_a_winner_is_named_in_both_orders() -> None:
    said = [Verdicts("A", "B"), Verdicts("B", "A"), Verdicts("A", "A"), Verdicts("B", None), Verdicts(None, None)]
    assert [verdicts.winner for verdicts in said] == ["A", "B", None, None, None]
