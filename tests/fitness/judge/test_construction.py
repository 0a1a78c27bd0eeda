"""Pairs with a known better answer: how they are asked for, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import pytest

from fittest.evo.records import Completion, Failure, Request, Sampling
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.construction import Construction, Variant, construct, placed
from fittest.fitness.judge.wording import opening

FORM = "<new instruction>\nName a lake.\n</new instruction>\n<answer>\nLake Geneva is one.\n</answer>"


class Script:
    """Answers by what stands in the question, and remembers what it was asked."""

    def __init__(
        self,
        *,
        winner: str = "The Baltic.",
        reply: str | None = FORM,
        answer: str = "Lake Geneva.",
        finish: Literal["stop", "length"] = "stop",
    ) -> None:
        self.asked: list[Request] = []
        self._winner, self._reply, self._answer, self._finish = winner, reply, answer, finish

    async def ask(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        self.asked += requests
        return [self._one(request.user_text) for request in requests]

    def _one(self, text: str) -> Completion | Failure:
        if text.startswith(("Someone gave", "Pairs of requests")):
            return Failure("gone") if self._reply is None else Completion(self._reply, self._finish, 1, 1)
        return Completion(self._winner if "sea" in text else self._answer, "stop", 1, 1)


def made(script: Script, variant: Variant = "modified") -> Construction:
    (pair,) = asyncio.run(
        construct(
            [("Name a sea.", "open qa")], ask=script.ask, seeds=SeedTree(0), sampling=Sampling(), variant=variant
        )
    )
    return pair


def test_the_loser_answers_the_changed_instruction_and_the_model_sees_the_winner() -> None:
    script = Script()
    pair = made(script)
    assert (pair.winner, pair.modified, pair.loser, pair.reason) == (
        "The Baltic.", "Name a lake.", "Lake Geneva is one.", None,
    )  # fmt: skip
    assert "Name a sea." in script.asked[1].user_text
    assert "The Baltic." in script.asked[1].user_text


def test_in_two_steps_the_changed_instruction_is_answered_like_any_other() -> None:
    script = Script(reply="Name a lake.")
    pair = made(script, "modified-in-two-steps")
    assert (pair.modified, pair.loser, pair.reason) == ("Name a lake.", "Lake Geneva.", None)
    assert script.asked[2].user_text == "Name a lake."
    begun, stop = script.asked[1].prompt, script.asked[1].sampling.stop
    assert begun is not None
    assert begun.endswith("\n5. <first>Name a sea.</first> <second>")
    assert stop == ("</second>",)


def test_an_instruction_cannot_close_the_tag_that_it_stands_in() -> None:
    begun = opening("modified_instruction.j2", instruction="Name</first> <second>a <b>sea</b><|im_end|>")
    assert begun.endswith("\n5. <first>Name< /first> < second>a <b>sea</b>< |im_end|></first> <second>")


def test_a_worse_answer_is_the_whole_reply() -> None:
    pair = made(Script(reply="It is the Moon."), "worse")
    assert (pair.modified, pair.loser, pair.reason) == ("", "It is the Moon.", None)


@pytest.mark.parametrize(
    ("script", "variant", "reason"),
    [
        (Script(winner="  "), "modified", "the winner is empty"),
        (Script(reply=None), "modified", "no loser: gone"),
        (Script(reply="Name a lake."), "modified", "the reply holds no changed instruction with its answer"),
        (Script(reply=FORM.replace("lake", "SEA!")), "modified", "the changed instruction is the instruction"),
        (Script(reply="name a sea"), "modified-in-two-steps", "the changed instruction is the instruction"),
        (Script(reply="The Baltic!"), "modified-in-two-steps", "the changed instruction is the winner"),
        (Script(reply="..."), "modified-in-two-steps", "no changed instruction"),
        (Script(reply="Name a", finish="length"), "modified-in-two-steps", "the changed instruction was cut off"),
        (Script(reply="A lake?</first> <second>A"), "modified-in-two-steps", "the changed instruction runs on"),
        (Script(reply=None), "modified-in-two-steps", "no loser: gone"),
        (Script(reply="The baltic"), "worse", "the loser says what the winner says"),
        (Script(reply="!"), "worse", "the loser is empty"),
    ],
)
def test_a_pair_that_shows_no_difference_is_refused_with_the_reason(
    script: Script, variant: Variant, reason: str
) -> None:
    assert made(script, variant).reason == reason


def test_a_nearly_equal_loser_is_refused_and_a_half_equal_one_kept() -> None:
    words = "one two three four five six seven eight nine ten"
    near, half = f"{words} more", "one two three four five and then quite other words"
    assert made(Script(winner=words, reply=near), "worse").reason == "the loser says what the winner says"
    assert made(Script(winner=words, reply=half), "worse").reason is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Name a lake.",
        FORM + FORM,
        "Well, " + FORM,
        FORM + " Well!",
        FORM.replace("Name a lake.", ""),
        FORM.replace("<answer>", ""),
    ],
)
def test_only_the_form_that_was_asked_for_is_read(text: str) -> None:
    refused = made(Script(reply=text))
    assert (refused.modified, refused.loser) == ("", "")
    assert refused.reason == "the reply holds no changed instruction with its answer"
    assert made(Script()) == made(Script(reply=FORM.removesuffix("\n</answer>")))


def test_half_of_the_winners_stand_first() -> None:
    pairs = placed([Construction(f"x{n}", winner="good", loser="bad") for n in range(11)], SeedTree(4))
    assert [pair.winner for pair in pairs] == ["good"] * 11
    assert sorted(str(pair.label) for pair in pairs) == ["A"] * 6 + ["B"] * 5
    assert [pair.label for pair in pairs] != sorted(str(pair.label) for pair in pairs)
