"""The gatekeeper asks gates when they can be asked, and lets nothing in that any of them turned away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fittest.evo.gatekeeper import Gatekeeper
from fittest.evo.ordering import ReorderBuffer
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.runs.output.journal import SqliteJournal


class Noted:
    """A gate that turns away what its rule says, and notes in a log whatever it is asked or told."""

    def __init__(
        self,
        name: str,
        log: list[str],
        *,
        ordered: bool = False,
        screens_pool: bool = True,
        needs_embedding: bool = False,
        refuses: Callable[[Prompt], bool] = lambda prompt: False,
    ) -> None:
        self.name = name
        self.ordered = ordered
        self.screens_pool = screens_pool
        self.needs_embedding = needs_embedding
        self._log = log
        self._refuses = refuses

    def check(self, prompt: Prompt) -> str | None:
        assert not self.needs_embedding or prompt.embedding is not None
        self._log.append(f"{self.name}? {prompt.text}")
        return f"refused by {self.name}" if self._refuses(prompt) else None

    def admit(self, prompt: Prompt) -> None:
        self._log.append(f"{self.name}+ {prompt.text}")


class CountingEmbedder:
    """Embeds a text by its length, and notes what it was asked for."""

    fingerprint = "counting"
    quick = True
    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def prompt(slot: int, text: str = "", operator: str = "mutate") -> Prompt:
    return Prompt(text or f"p{slot}", Birth(operator, 1, slot))


def keeper(
    gates: Sequence[Noted], embedder: CountingEmbedder | None = None, journal: SqliteJournal | None = None
) -> Gatekeeper:
    return Gatekeeper(gates, embedder=embedder or CountingEmbedder(), journal=journal or SqliteJournal(":memory:"))


def passed(gatekeeper: Gatekeeper, prompts: Sequence[Prompt]) -> list[bool]:
    """Whether each is accepted; they arrive one after the other, in the order given, whatever their slots."""

    async def body() -> list[bool]:
        reorder = ReorderBuffer()
        arrived = []
        for one in prompts:
            arrived.append(asyncio.create_task(gatekeeper.pass_through(one, reorder.in_order(one.birth.slot))))
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            return [await task for task in arrived]

    return asyncio.run(body())


def test_stateless_gates_are_asked_on_arrival_and_ordered_ones_in_slot_order() -> None:
    log: list[str] = []
    gates = [Noted("length", log), Noted("exact", log, ordered=True)]
    assert passed(keeper(gates), [prompt(2), prompt(1), prompt(0)]) == [True] * 3
    assert [line for line in log if line.startswith("length?")] == ["length? p2", "length? p1", "length? p0"]
    assert log.index("length? p1") < log.index("exact? p0")
    assert [line for line in log if line.startswith("exact?")] == ["exact? p0", "exact? p1", "exact? p2"]


def test_gates_after_the_first_ordered_one_wait_with_it() -> None:
    """They are the costly ones, and the ordered one may spare them the prompt."""
    log: list[str] = []
    gates = [Noted("exact", log, ordered=True, refuses=lambda p: p.text == "p1"), Noted("costly", log)]
    assert passed(keeper(gates), [prompt(1), prompt(0)]) == [False, True]
    assert [line for line in log if "?" in line] == ["exact? p0", "costly? p0", "exact? p1"]


def test_a_prompt_is_admitted_once_all_gates_have_passed_it_and_before_the_next_is_asked() -> None:
    log: list[str] = []
    gates = [
        Noted("length", log),
        Noted("exact", log, ordered=True),
        Noted("late", log, refuses=lambda p: p.text == "p0"),
    ]
    gatekeeper = keeper(gates)
    assert passed(gatekeeper, [prompt(2), prompt(1), prompt(0)]) == [True, True, False]
    assert not any("+ p0" in line for line in log)
    assert log[log.index("late? p1") :][:5] == ["late? p1", "length+ p1", "exact+ p1", "late+ p1", "exact? p2"]
    assert len(gatekeeper.archive) == 2
    assert prompt(0).id not in gatekeeper.archive
    assert gatekeeper.archive[prompt(1).id].text == "p1"


def test_the_first_gate_that_refuses_is_recorded_and_no_other_is_asked() -> None:
    log: list[str] = []
    gates = [
        Noted("length", log, refuses=lambda p: p.text == "short"),
        Noted("keywords", log, refuses=lambda p: True),
        Noted("exact", log, ordered=True),
    ]
    refused = prompt(0, "short")
    assert passed(keeper(gates), [refused]) == [False]
    assert (refused.gate, refused.gate_reason) == ("length", "refused by length")
    assert log == ["length? short"]


def test_what_was_turned_away_before_takes_its_place_and_is_asked_nothing() -> None:
    log: list[str] = []
    unusable = prompt(0)
    unusable.turn_away("parse", "empty")
    assert passed(keeper([Noted("length", log), Noted("exact", log, ordered=True)]), [prompt(1), unusable]) == [
        True,
        False,
    ]
    assert unusable.gate == "parse"
    assert not any("p0" in line for line in log)


def test_human_prompts_pass_by_the_gates_that_do_not_screen_them_and_are_admitted_by_all() -> None:
    log: list[str] = []
    gates = [Noted("length", log), Noted("novelty", log, ordered=True, screens_pool=False, refuses=lambda p: True)]
    assert passed(keeper(gates), [prompt(0, operator="pool"), prompt(1)]) == [True, False]
    assert log == ["length? p0", "length+ p0", "novelty+ p0", "length? p1", "novelty? p1"]


def test_only_prompts_that_get_to_a_gate_that_needs_it_are_embedded_before_they_are_accepted() -> None:
    log: list[str] = []
    gates = [
        Noted("exact", log, ordered=True, refuses=lambda p: p.text == "copy"),
        Noted("novelty", log, ordered=True, needs_embedding=True, refuses=lambda p: p.text == "near"),
    ]
    embedder = CountingEmbedder()
    gatekeeper = keeper(gates, embedder)
    assert passed(gatekeeper, [prompt(0, "copy"), prompt(1, "near"), prompt(2, "new")]) == [False, False, True]
    assert embedder.asked == ["near", "new"]
    assert gatekeeper.archive.embeddings.tolist() == [[3, 1]]


def test_without_a_gate_that_needs_it_a_prompt_is_embedded_when_it_is_accepted() -> None:
    embedder = CountingEmbedder()
    gates = [Noted("length", [], refuses=lambda p: p.text == "short")]
    assert passed(keeper(gates, embedder), [prompt(0, "short"), prompt(1, "accepted")]) == [False, True]
    assert embedder.asked == ["accepted"]


@pytest.mark.parametrize("quick", [False, True])
def test_an_embedding_is_journalled_and_not_computed_again(quick: bool) -> None:
    journal, first, second = SqliteJournal(":memory:"), CountingEmbedder(), CountingEmbedder()
    first.quick = second.quick = quick
    gates = [Noted("novelty", [], ordered=True, needs_embedding=True)]
    assert passed(keeper(gates, first, journal), [prompt(0, "a text")]) == [True]
    kept = journal.embedding("counting", "a text")
    assert kept is not None
    assert kept.tolist() == [6, 1]
    again = keeper(gates, second, journal)
    assert passed(again, [prompt(0, "a text"), prompt(1, "another")]) == [True, True]
    assert (first.asked, second.asked) == (["a text"], ["another"])
    assert again.archive.embeddings.tolist() == [[6, 1], [7, 1]]


def test_an_embedding_that_is_there_is_neither_computed_nor_looked_up() -> None:
    embedder, given = CountingEmbedder(), prompt(0)
    given.embedding = np.array([9, 9], dtype=np.float32)
    gatekeeper = keeper([], embedder)
    assert passed(gatekeeper, [given]) == [True]
    assert embedder.asked == []
    assert gatekeeper.archive.embeddings.tolist() == [[9, 9]]
