"""One strict parser: a verdict is marked once and for one side, or it is none."""

from __future__ import annotations

import pytest

from fittest.fitness.judge.verdict import Side, majority, marked, other, parse_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("B rambles. [[A]]", "A"),
        ("[[B]]", "B"),
        ("[[B]] is my verdict, and I repeat it:\n[[B]]", "B"),
        ("At first [[A]], but no: [[B]]", None),
        ("[[B]][[A]]", None),
        ("A is better.", None),
        ("[A]", None),
        ("[[a]]", None),
        ("[[ A ]]", None),
        ("[[C]]", None),
        ("[[A]", None),
        ("[[AB]]", None),
        ("", None),
    ],
)
def test_only_one_marked_side_is_a_verdict(text: str, verdict: Side | None) -> None:
    assert parse_verdict(text) == verdict


def test_a_written_verdict_is_read_back() -> None:
    assert [parse_verdict(marked(side)) for side in ("A", "B")] == ["A", "B"]
    assert (other("A"), other("B")) == ("B", "A")


@pytest.mark.parametrize(
    ("votes", "outcome"),
    [
        (["A", "A", "B"], "A"),
        (["B", None, None, None], "B"),
        (["A", "B"], None),
        (["A", "B", None], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority_of_readable_votes_counts_and_a_draw_is_no_verdict(
    votes: list[Side | None], outcome: Side | None
) -> None:
    assert majority(votes) == outcome
