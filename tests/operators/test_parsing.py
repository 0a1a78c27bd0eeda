"""What models really write, in a text that they continue and in a chat, and what is made of it."""

import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.operators.parsing import Unusable, parse_candidate, unreadable_character

TASK = "Explain how rain forms."


@pytest.mark.parametrize(
    "reply",
    [
        TASK,
        f"  \n{TASK}\n ",
        f"{TASK}</task>",
        f"<task>{TASK}</task>",
        f"{TASK}</task>\n10. <task>Name three rivers.</task>",
        f"{TASK}\n10. <task>Name three rivers.",
        f"{TASK}\n10. Name three rivers.\n11. Name two lakes.",
        f"{TASK}\n\nDeeper task: <task>Name three rivers.",
        f"10. <task>{TASK}",
        f"9. {TASK}",
        f"- {TASK}",
        f"Task: {TASK}",
        f"**Task 9:** {TASK}",
        f'"{TASK}"',
        f"“{TASK}”",
        f"```\n{TASK}\n```",
        f"```text\n{TASK}\n```",
        f"{TASK}\nOutput: Warm air rises.",
        f"{TASK}\n\n**Answer:**\nWarm air rises.\n",
        f"{TASK}<|im_end|>\n<|im_start|>assistant\nWarm air rises.",
        f"<|im_start|>{TASK}<|im_end|>",
        f"{TASK}</s>",
        f"Sure, here is a new one:\n{TASK}",
        f"Here is a new task: {TASK}",
        f"</task>\n\n{TASK}",
        f"{TASK}</Task >",
    ],
)
def test_the_task_is_found_in_what_small_models_write(reply: str) -> None:
    assert parse_candidate(reply, "stop") == TASK


@pytest.mark.parametrize(
    "reply",
    [
        f"Sure! Here's a new task:\n\n<task>{TASK}</task>\n\nThis task asks for a cause.",
        f"Here is a task that is as long and as demanding as the others in your list:\n<task>{TASK}</task>",
        f"**<task>**\n{TASK}\n**</task>**",
        f"```xml\n<task>{TASK}</task>\n```",
        f"`<task>{TASK}</task>`",
        f"<Task>\n{TASK}\n</Task>",
        f"<task><task>{TASK}</task></task>",
        f"<task>**{TASK}**</task>",
        f'<task>\n"{TASK}"\n</task>',
        f"<task>Task: {TASK}</task>",
        f"Deeper task: <task>{TASK}</task>",
        f"(rain, sea) <task>{TASK}</task>",
        f"<task>{TASK}</task><|im_end|>",
        f"<task>{TASK}</task>\n\nWarm air rises and cools.\n\n1. Water evaporates.\n2. It condenses.",
        f"I put one task between <task> and </task>:\n\n<task>{TASK}</task>",
        f"<task>{TASK}</task>\n\nThe task stands between <task> and </task>, as you asked.",
        f"Task: <task>What is rain?</task>\nDeeper task: <task>{TASK}</task>",
        f"<task>What is rain?</task> is too short, so I ask for more.\n<task>{TASK}</task>",
        f"1. <task>Name three rivers.</task>\n2. <task>{TASK}</task>",
        f"<task>{TASK}</task>\n<task>...</task>",
        f"<task>{TASK}</task>\n<task>I'm sorry, but I can't help with that.</task>",
    ],
)
def test_a_chat_means_the_last_usable_task_between_its_tags(reply: str) -> None:
    assert parse_candidate(reply, "stop") == TASK


@pytest.mark.parametrize(
    "reply",
    [
        f"Sure! Here is a new task: {TASK}",
        f"Here’s a new task for your list:\n\n{TASK}",
        f"**Here is a new task:** {TASK}",
        f"Here is a new task:\n\n**{TASK}**",
        f"Here is a new task:\n\n```\n{TASK}\n```",
        f"Here is a new task:\n\n{TASK}\n\nThis task is about weather.",
        f"Certainly, I can do that:\n{TASK}\n\nLet me know if you want another one.",
        f"In other words: {TASK}",
        f"**Deeper task:** {TASK}",
    ],
)
def test_a_chat_that_has_left_the_tags_out_is_read_all_the_same(reply: str) -> None:
    assert parse_candidate(reply, "stop") == TASK


@pytest.mark.parametrize(
    "reply",
    [
        f"Here is a task that is as long and as demanding as the others in your list:\n\n<task>{TASK}",
        f"Of course! This one has the words that you have asked for:\n<task>{TASK}",
        f"6. (rain, sea) <task>{TASK}",
        f"4. <task>{TASK}",
    ],
)
def test_a_chat_that_began_anew_and_was_stopped_at_the_closing_tag_is_read(reply: str) -> None:
    assert parse_candidate(reply, "stop") == TASK


def test_a_cut_chat_is_used_if_one_of_its_pairs_of_tags_is_complete() -> None:
    assert parse_candidate(f"<task>{TASK}</task>\n\nThis task asks", "length") == TASK
    assert parse_candidate(f"<task>{TASK}</task>\n<task>Name three", "length") == TASK
    assert parse_candidate("Here is a task:\n\n<task>Explain how", "length") == Unusable("unfinished")


def test_tags_that_hold_no_task_say_why() -> None:
    assert parse_candidate("<task></task>", "stop") == Unusable("only markup")
    refusal = "<task>I'm sorry, but I can’t help with that.</task>"
    assert parse_candidate(refusal, "stop") == Unusable("meta talk")


def test_a_reply_that_continues_after_a_tag_means_its_first_item() -> None:
    reply = f"{TASK}</task>\n10. <task>Name three rivers.</task>\n11. <task>Name two lakes.</task>"
    assert parse_candidate(reply, "stop") == TASK


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("</task>", "only markup"),
        ("<|im_end|>", "only markup"),
        ("```\n```", "only markup"),
        ("Output: yes", "only markup"),
        ("...", "only markup"),
        ("As an AI language model, I have no tasks.", "meta talk"),
        ("I'm sorry, but I can't help with that.", "meta talk"),
        ("I’m sorry, but I can’t help with that.", "meta talk"),
        ("I can’t help with that.", "meta talk"),
        ("Explain \x00 rain.", "unreadable characters"),
        ("Explain \ufffd rain.", "unreadable characters"),
    ],
)
def test_a_reply_without_a_task_has_a_stable_reason(reply: str, reason: str) -> None:
    assert parse_candidate(reply, "stop") == Unusable(reason)  # type: ignore[arg-type]


def test_a_lone_surrogate_is_unreadable() -> None:
    assert parse_candidate("Explain \ud83d rain.", "stop") == Unusable("unreadable characters")


@pytest.mark.parametrize("reply", ["Explain how rain", "Rank these:\n1.", "Explain how rain forms in <task"])
def test_half_a_task_is_unfinished(reply: str) -> None:
    cut = parse_candidate(reply.removesuffix("<task"), "length")
    assert cut == Unusable("unfinished")


@pytest.mark.parametrize(
    "reply",
    [
        TASK,
        f"{TASK}</task>\n10. <task>Name three",
        f"{TASK}\n10. Name three",
        f"{TASK}\nAnswer: Warm air",
        f"{TASK}</tas",
    ],
)
def test_a_cut_reply_is_used_where_its_task_is_complete(reply: str) -> None:
    assert parse_candidate(reply, "length") == TASK


@pytest.mark.parametrize(
    "task",
    [
        "Rank these:\n1. apples\n2. pears\n10. plums",
        "Fix this code:\n```python\nif x <task_count:\n    pass\n```",
        "Write a haiku.\n\nUse the word 'rain'.",
        "Classify the sentence.\nInput: I love rain.",
        "天気について説明してください。",
        '"Rain" and "snow"',
        "I'm sorry my friend is ill. How can I comfort her?",
        "Here is my essay: rain is wet. Can you make it longer?",
        "Make **bold** and **strong** mean the same.",
        "**Rain** falls, and who is **wet**?",
        "Write a notice for the door.\n\nNote that we are closed on Monday.",
        "Name the parts of this plan:\n\nThis task is mine, that one is yours.",
    ],
)
def test_what_belongs_to_the_task_is_kept(task: str) -> None:
    assert parse_candidate(task, "stop") == task


def test_the_first_usable_item_is_taken_and_the_telling_reason_kept() -> None:
    assert parse_candidate(f"</task>\n9. <task>...</task>\n10. <task>{TASK}", "stop") == TASK
    assert parse_candidate("</task>\n9. <task>Explain how", "length") == Unusable("unfinished")


FRAGMENTS = st.sampled_from(
    [TASK, "rain", "<task>", "</task>", "</TASK >", "<task", "< / task>", "</ta", "<", "<|im_end|>", "9. ", "\n", " ",
     "Sure! Here is a task:", "**",
     '"', "```", "Output:", "Task:", "\x00", "\ud800"]
)  # fmt: skip


@given(
    reply=st.lists(FRAGMENTS | st.text(max_size=8), max_size=12).map("".join),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_no_reply_raises_or_leaves_markup_in_the_candidate(reply: str, finish_reason: str) -> None:
    candidate = parse_candidate(reply, finish_reason)  # type: ignore[arg-type]
    if isinstance(candidate, str):
        assert candidate == candidate.strip() != ""
        assert not re.search(r"<\s*/?\s*task\b|<\|[^|<>\n]{1,40}\|>", candidate, re.IGNORECASE)
        assert unreadable_character(candidate) is None
        assert candidate in reply


@pytest.mark.parametrize(
    "reply",
    [
        f" They are short. None is about rain.\nNew task: <task>{TASK}",
        f"Thoughts: they are short.\n<task>{TASK}</task>",
        f"Like <task>Name three rivers.</task>, they are short.\n<task>{TASK}</task>\n\n1. Name a lake.",
        f"I write it between <task> and </task>.\n<task>{TASK}</task>",
        f"<task>{TASK}</task>\nIt stands between <task> and </task>, as you asked.",
        f"They are short.</task>\n<task>{TASK}</task>",
        f"They are short.\n<task>{TASK}<|im_end|>",
        f"They are short.\n<task><task>{TASK}</task></task>",
    ],
)
def test_of_a_reply_that_thinks_the_last_tags_hold_the_task(reply: str) -> None:
    assert parse_candidate(reply, "stop", thinks=True) == TASK


@pytest.mark.parametrize(
    ("reply", "finish_reason", "reason"),
    [
        (f"They are short. {TASK}", "stop", "no tags"),
        (f"They are short.</task> {TASK}", "stop", "no tags"),
        (f"They are short. {TASK}", "length", "unfinished"),
        ("Like <task>Name a lake.</task>, they are short.\n<task>Explain how", "length", "unfinished"),
        ("Like <task>Name a lake.</task>, they are short.\n<task>", "length", "only markup"),
        ("They are short.\n<task>I'm sorry, but I can't help with that.</task>", "stop", "meta talk"),
        ("", "stop", "empty"),
    ],
)
def test_thoughts_are_never_taken_for_a_task(
    reply: str, finish_reason: Literal["stop", "length"], reason: str
) -> None:
    found = parse_candidate(reply, finish_reason, thinks=True)
    assert isinstance(found, Unusable)
    assert found.reason == reason


@given(st.text() | st.lists(st.sampled_from(["<task>", "</task>", " and ", "Why?", "<|im_end|>"])).map("".join))
def test_whatever_a_reply_thinks_no_tag_stays_in_its_task(reply: str) -> None:
    found = parse_candidate(reply, "stop", thinks=True)
    assert isinstance(found, Unusable) or "<task>" not in found
