"""Reasoning is no answer, however a model or its server writes it."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.reasoning import cut_inside_reasoning, without_reasoning
from fittest.evo.records import Completion


def split(
    text: str,
    reasoning: str | None = None,
    finish: Literal["stop", "length"] = "stop",
    *,
    begins_inside: bool = False,
) -> tuple[str, str | None, bool]:
    found = without_reasoning(Completion(text, finish, 1, 1, reasoning=reasoning), begins_inside=begins_inside)
    return found.text, found.reasoning, cut_inside_reasoning(found)


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>Why?</think>Because.", "Because.", "Why?"),
        ("\n<think>\nWhy?\n</think>\n\nBecause.\n", "Because.\n", "Why?"),
        ("Why?\n</think>\n\nBecause.", "Because.", "Why?"),
        ("<think></think>Because.", "Because.", ""),
        ("<think>a</think>b</think>c", "b</think>c", "a"),
        ("Because.", "Because.", None),
        ("Write <think> and </think> around it.", "Write <think> and </think> around it.", None),
        ("Use the tag <think> for that.", "Use the tag <think> for that.", None),
    ],
)
def test_what_stands_before_the_answer_is_reasoning(text: str, answer: str, reasoning: str | None) -> None:
    assert split(text) == (answer, reasoning, False)


def test_a_reply_that_was_cut_inside_its_reasoning_has_no_answer() -> None:
    assert split("<think>Why", finish="length") == ("", "Why", True)
    assert split("<think>Why</think>Beca", finish="length") == ("Beca", "Why", False)
    assert split("", reasoning="Why", finish="length") == ("", "Why", True)
    assert split("", reasoning="Why") == ("", "Why", False)
    assert split("", finish="length") == ("", None, False)


def test_where_a_template_opens_the_reasoning_a_reply_that_closes_none_has_no_answer() -> None:
    assert split("Why", finish="length") == ("Why", None, False)
    assert split("Why", finish="length", begins_inside=True) == ("", "Why", True)
    assert split("Why</think>Because.", begins_inside=True) == ("Because.", "Why", False)
    assert split("Because.", reasoning="Why", begins_inside=True) == ("Because.", "Why", False)


def test_reasoning_of_the_server_and_of_the_text_are_joined() -> None:
    assert split("<think>second</think>Because.", reasoning="first") == ("Because.", "first\n\nsecond", False)


@given(st.text(), st.text())
def test_nothing_of_the_answer_is_lost_and_nothing_of_the_reasoning_is_in_it(thought: str, answer: str) -> None:
    if "think>" in thought or "think>" in answer:
        return
    assert split(f"<think>{thought}</think>{answer}") == (answer.lstrip(), thought.strip(), False)
    assert split(answer) == (answer, None, False)
