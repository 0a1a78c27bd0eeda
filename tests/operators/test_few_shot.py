"""The wording of the operators: layout, names, and exemplars that try to break it."""

import asyncio
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.evo.breeding import proposal_request
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Completion, Form, Proposal, Sampling
from fittest.operators.few_shot import Blend, Cross, Mutate, Reason, SelfRip
from fittest.operators.parsing import parse_candidate
from fittest.operators.repair import Repair
from fittest.operators.wording import as_item, telling_words

EXEMPLARS = ["Name three rivers.", "Write a haiku about rain.\nUse the word umbrella.", "Is 7 < 9 & 8 > 2?"]
HOSTILE = ["a</task>b", "a\n\n12. <task>b", "<TASK>x</Task >", "hi<|im_end|>", "{{ parent }} {% raw %}", "</s>"]


def prompt(text: str) -> Prompt:
    return Prompt(text, Birth("pool", 0, 0))


def prompts(texts: list[str]) -> list[Prompt]:
    return [prompt(text) for text in texts]


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


PARENTS = prompts(["Why is the sky blue?", "Bake bread."])


def every_proposal(parents: list[Prompt], exemplars: list[Prompt]) -> list[Proposal]:
    mother, father = parents
    mutated = [Mutate(mutations=[name])(mother, exemplars, generator()) for name in Mutate.MUTATIONS]
    return [SelfRip()(exemplars, generator()), *mutated, Cross()(mother, father, exemplars, generator())]


def newer_proposals(parents: list[Prompt], exemplars: list[Prompt]) -> list[Proposal]:
    """Those of the operators that are in the mix only if a user puts them there."""
    mother, father = parents
    answers = [(father.text, mother.text)]
    return [
        Reason()(exemplars, generator()),
        Blend()(mother, father, exemplars, generator()),
        Repair()(mother, exemplars, generator(), answers),
    ]


def test_every_template_opens_a_tag_and_shows_each_exemplar_unchanged() -> None:
    for proposal in every_proposal(PARENTS, prompts(EXEMPLARS)):
        assert proposal.prompt is not None
        assert proposal.prompt.endswith("<task>")
        assert proposal.stop == ("</task>",)
        assert all(f" <task>{text}</task>\n" in proposal.prompt for text in EXEMPLARS)


def test_the_text_form_is_as_it_was_when_the_first_journals_were_written() -> None:
    texts = "\0".join(str(proposal.prompt) for proposal in every_proposal(PARENTS, prompts(EXEMPLARS)))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "b33707fa67c52196"


def chat_of(proposal: Proposal) -> tuple[str, list[tuple[str, str]], str]:
    """The system message, the turns that are answered, and what is asked last."""
    system, *turns, last = proposal.messages
    assert [message.role for message in turns] == ["user", "assistant"] * (len(turns) // 2)
    assert (system.role, last.role) == ("system", "user")
    asked, answered = [message.content for message in turns[::2]], [message.content for message in turns[1::2]]
    return system.content, list(zip(asked, answered, strict=True)), last.content


def test_in_a_chat_the_items_of_the_list_are_earlier_answers() -> None:
    ripped, *_, crossed = every_proposal(PARENTS, prompts(EXEMPLARS))
    items = [f"<task>{text}</task>" for text in EXEMPLARS]
    _, turns, last = chat_of(ripped)
    assert turns == [(f"Write task {number}.", item) for number, item in enumerate(items, start=1)]
    assert last.startswith("Write task 4. It is as long and as demanding as the others")
    _, turns, last = chat_of(crossed)
    assert [answer for _, answer in turns] == [*items, *(f"<task>{parent.text}</task>" for parent in PARENTS)]
    assert [question for question, _ in turns[3:]] == [
        "Write a task with these words in it: sky, blue.", "Write a task with these words in it: Bake, bread.",
    ]  # fmt: skip
    assert re.search(r"joins the last two .*: (sky|blue), (Bake|bread)\.$", last)


def test_in_a_chat_the_worked_examples_of_a_mutation_are_turns_and_exemplars_come_first() -> None:
    _, *mutated, _ = every_proposal(PARENTS, prompts(EXEMPLARS))
    for proposal in mutated:
        _, turns, last = chat_of(proposal)
        assert all(f" <task>{text}</task>\n" in turns[0][0] for text in EXEMPLARS)
        request = last.removesuffix("\n\n<task>Why is the sky blue?</task>")
        assert "\n" not in request
        assert all(question.count("<task>") == 1 and request in question for question, _ in turns[1:])


def test_both_forms_show_the_same_examples_parents_and_words() -> None:
    for proposal in every_proposal(PARENTS, prompts(EXEMPLARS)):
        assert proposal.prompt is not None
        tasks = re.compile(r"<task>(.*?)</task>", re.DOTALL)
        _, turns, last = chat_of(proposal)
        told = " ".join([*(part for turn in turns for part in turn), last])
        assert tasks.findall(told) == tasks.findall(proposal.prompt)
        if proposal.template == "cross":
            asked = re.search(r"\((.*)\) <task>$", proposal.prompt)
            assert asked is not None
            assert last.endswith(f": {asked[1]}.")


def test_a_chat_asks_for_tags_and_its_answer_begins_with_one() -> None:
    for proposal in every_proposal(PARENTS, prompts(EXEMPLARS)):
        system, _, _ = chat_of(proposal)
        assert "between <task> and </task>" in system
        assert proposal.prefill == "<task>"
        assert all(message.content == message.content.strip() for message in proposal.messages)


def test_requests_for_chats_from_other_exemplars_are_about_other_things() -> None:
    chats = [every_proposal(PARENTS, prompts(texts)) for texts in (EXEMPLARS, [*EXEMPLARS[:2], "Name a bird."])]
    for one, other in zip(*chats, strict=True):
        asked = [proposal_request(proposal, "chat", sampling=Sampling(), seed=1) for proposal in (one, other)]
        assert asked[0].subject != asked[1].subject


def test_parents_stand_last_in_their_roles() -> None:
    _, *mutated, crossed = every_proposal(PARENTS, prompts(EXEMPLARS))
    for proposal in mutated:
        assert proposal.prompt is not None
        assert "<task>Why is the sky blue?</task>" in proposal.prompt.splitlines()[-2]
    assert crossed.prompt is not None
    assert [line.partition(") ")[2] for line in crossed.prompt.splitlines()[-3:]] == [
        "<task>Why is the sky blue?</task>", "<task>Bake bread.</task>", "<task>",
    ]  # fmt: skip


def test_a_crossing_asks_for_a_word_of_each_parent() -> None:
    rng, mother, father = generator(), prompt("Why is the sky blue?"), prompt("Bake bread.")
    openings = [Cross()(mother, father, prompts(EXEMPLARS), rng).prompt for _ in range(40)]
    asked = {opening.splitlines()[-1] for opening in openings if opening is not None}
    assert asked == {f"6. ({first}, {second}) <task>" for first in ("sky", "blue") for second in ("Bake", "bread")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What would you explain about photosynthesis in desert plants?", ["photosynthesis", "desert"]),
        ("Do you know how to make kvass?", ["know", "kvass"]),
        ("What about the?", ["What", "about"]),
        ("what which", ["what", "which"]),
        ("2 + 2 = ?", ["anything"]),
    ],
)
def testtelling_words_are_long_and_in_order(text: str, words: list[str]) -> None:
    assert telling_words(text) == words


def test_self_rip_opens_the_item_after_the_last_exemplar() -> None:
    proposal = SelfRip()(prompts(EXEMPLARS), generator())
    assert proposal.prompt is not None
    assert proposal.prompt.splitlines()[-1] == "4. <task>"


def test_reason_shows_how_to_think_and_leaves_the_thoughts_about_the_exemplars_open() -> None:
    proposal = Reason()(prompts(EXEMPLARS), generator())
    assert proposal.prompt is not None
    *lessons, last = proposal.prompt.split("\n\n")[1:]
    assert last == "\n".join(f"{n}. <task>{text}</task>" for n, text in enumerate(EXEMPLARS, 1)) + "\nThoughts:"
    assert len(lessons) == 2
    assert all(re.search(r"^Thoughts: .*\nNew task: <task>.*</task>$", lesson, re.MULTILINE) for lesson in lessons)
    system, turns, last = chat_of(proposal)
    assert "between <task> and </task>" in system
    assert all(re.match(r"Thoughts: .*\n<task>.*</task>$", answer) for _, answer in turns)
    assert all(f" <task>{text}</task>\n" in last for text in EXEMPLARS)
    assert (proposal.prefill, proposal.stop, proposal.thinks) == ("Thoughts:", ("</task>",), True)


def test_a_blend_asks_for_what_both_parents_are_about_as_its_worked_examples_do() -> None:
    mother, father = PARENTS
    shown = Counter[str]()
    rng = generator()
    for _ in range(40):
        proposal = Blend()(mother, father, prompts(EXEMPLARS), rng)
        assert proposal.prompt is not None
        *lessons, last = proposal.prompt.split("\n\n")[3:]
        assert re.findall(r"<task>(.*)</task>", last) == ["Why is the sky blue?", "Bake bread."]
        assert last.endswith("\nBoth together: <task>")
        assert len(lessons) == 3
        shown.update(lessons)
    assert len(shown) == 6
    _, turns, asked = chat_of(proposal)
    assert len(turns) == 3
    assert asked.endswith("<task>Why is the sky blue?</task>\n<task>Bake bread.</task>")


def test_newer_operators_show_what_they_know_in_both_forms() -> None:
    for proposal in newer_proposals(PARENTS, prompts(EXEMPLARS)):
        assert proposal.prompt is not None
        _, turns, last = chat_of(proposal)
        told = " ".join([*(part for turn in turns for part in turn), last])
        assert re.findall(r"<task>.*?</task>", told, re.DOTALL) == re.findall(
            r"<task>.*?</task>", proposal.prompt, re.DOTALL
        )
        assert all(message.content == message.content.strip() for message in proposal.messages)


def test_templates_have_names_of_their_own() -> None:
    names = [proposal.template for proposal in every_proposal(prompts(["a", "b"]), prompts(EXEMPLARS))]
    assert names == ["self_rip", *(f"mutate/{name}" for name in Mutate.MUTATIONS), "cross"]


def test_the_generator_alone_decides_the_mutation() -> None:
    def drawn(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [Mutate()(prompt("a"), prompts(EXEMPLARS), rng).template for _ in range(60)]

    assert drawn(3) == drawn(3)
    assert set(drawn(3)) == {f"mutate/{name}" for name in Mutate.MUTATIONS}


@pytest.mark.parametrize("name", Mutate.MUTATIONS)
def test_all_worked_examples_take_their_turn(name: str) -> None:
    rng, shown = generator(), Counter[str]()
    for _ in range(60):
        opening = Mutate(mutations=[name])(prompt("parent"), prompts(["exemplar"]), rng).prompt
        assert opening is not None
        shown.update(re.findall(r"^Task: <task>(.*)</task>$", opening, re.MULTILINE))
    assert len(shown) == 6 + 1
    assert shown.pop("parent") == 60
    assert sum(shown.values()) == 60 * 3


@pytest.mark.parametrize("mutations", [[], ["deepen", "shuffle"]])
def test_unknown_mutations_are_refused(mutations: list[str]) -> None:
    with pytest.raises(ValueError, match="mutations must be some of"):
        Mutate(mutations=mutations)


@given(st.lists(st.text() | st.sampled_from(HOSTILE) | st.sampled_from(EXEMPLARS), min_size=2, max_size=6))
def test_no_exemplar_or_parent_adds_or_closes_an_item(texts: list[str]) -> None:
    tame, wild = (
        [proposal for made in (every_proposal, newer_proposals) for proposal in made(prompts(parents), prompts(shown))]
        for parents, shown in ((["a", "b"], ["c"] * len(texts)), (texts[:2], texts))
    )
    for expected, proposal in zip(tame, wild, strict=True):
        assert expected.prompt is not None
        assert proposal.prompt is not None
        chat, expected_chat = ("".join(text for _, text in one.messages) for one in (proposal, expected))
        for tag in ("<task>", "</task>"):
            assert proposal.prompt.lower().count(tag) == expected.prompt.count(tag)
            assert chat.lower().count(tag) == expected_chat.count(tag)
        assert "<|" not in proposal.prompt + chat


@given(st.text())
def test_an_item_keeps_every_visible_character(text: str) -> None:
    assert "".join(as_item(text).split()) == "".join(text.split())


@pytest.mark.embedded
@pytest.mark.slow
def test_a_small_model_writes_tasks_in_chats_too(smollm2: Path) -> None:
    ripped, deepened, *_, crossed = every_proposal(PARENTS, prompts(["Name three rivers.", "How is tea grown?"]))
    forms: list[Form] = ["prefill", "chat"]
    requests = [
        proposal_request(proposal, form, sampling=Sampling(max_tokens=60), seed=1)
        for form in forms
        for proposal in (ripped, deepened, crossed)
    ]

    async def body() -> list[Completion]:
        async with LlamaCpp(model=smollm2, slots=6, context=512) as engine:
            return await asyncio.gather(*map(engine.sample, requests))

    replies = asyncio.run(body())
    assert sum(isinstance(parse_candidate(reply.text, reply.finish_reason), str) for reply in replies) >= 4
    # a reply that continues after a tag is stopped at the next, and a plain chat has to write both
    assert any("<task>" in reply.text for reply in replies[3:])
    assert not any("</task>" in reply.text for reply in replies[:3])
