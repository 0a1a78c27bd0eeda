"""The loop without a barrier: an offspring joins at once, generations are sealed in order, and a run repeats."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from fittest.evo.ordering import MilestoneOrder
from fittest.evo.prompt import Prompt
from fittest.evo.state import Generation
from fittest.evo.steady_state import SteadyState
from fittest.runs.output.journal import SqliteJournal
from tests.evo.hand_made import GOOD, Evaluated, NoBad, evolution_of, pool_of, texts, toolbox_of, worth

POOL = pool_of(0.9, 0.1, 0.6, 0.4, 0.75)
Tables = list[tuple[int, list[str], list[tuple[str, ...]]]]


class Waiting(Evaluated):
    """An evaluate that takes as long as the random numbers of one run say; another run has others."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
        for _ in range(self._rng.randrange(40)):
            await asyncio.sleep(0)
        return await super().__call__(individuals)


def steady(journal: SqliteJournal | None = None, pool: Any = POOL, **more: Any) -> SteadyState:
    journal = journal or SqliteJournal(":memory:")
    evolution = evolution_of(
        pool,
        loop=partial(SteadyState, order=MilestoneOrder(journal)),  # type: ignore[arg-type]
        journal=journal,
        **{"toolbox": toolbox_of(evaluate=Waiting(1)), "settings": {"generations": 3}, **more},
    )
    assert isinstance(evolution, SteadyState)
    asyncio.run(evolution.run())
    return evolution


def tables(evolution: SteadyState) -> Tables:
    return [
        (generation.number, texts(generation.candidates), [prompt.birth.parents for prompt in generation.candidates])
        for generation in evolution.state.finished
    ]


def test_every_generation_has_all_its_slots_and_is_finished_in_order() -> None:
    evolution = steady()
    assert [generation.number for generation in evolution.state.finished] == [0, 1, 2, 3]
    for generation in evolution.state.finished[1:]:
        assert [prompt.birth.slot for prompt in generation.candidates] == list(range(6))
        assert {prompt.birth.generation for prompt in generation.candidates} == {generation.number}
    assert evolution.state.stop_reason == "generations"


def test_offspring_are_born_before_the_generation_before_them_is_finished() -> None:
    born_before_the_first_was_finished = 0

    def note(evolution: Any, generation: Generation) -> None:
        nonlocal born_before_the_first_was_finished
        if generation.number == 1:
            born_before_the_first_was_finished = evolution.state.proposed

    steady(on_generation=note)
    # those of generation 1 are not among them any more
    assert born_before_the_first_was_finished > 0


def test_an_offspring_is_a_parent_as_soon_as_it_has_joined() -> None:
    state = steady(settings={"generations": 1, "offspring": 40}).state
    (generation,) = state.finished[1:]
    own = {prompt.id for prompt in generation.candidates}
    assert any(set(prompt.birth.parents) & own for prompt in generation.candidates)


def test_those_that_fail_are_never_parents_while_others_survive() -> None:
    state = steady().state
    known = {prompt.id: prompt for generation in state.finished for prompt in generation.candidates}
    parents = {parent for prompt in known.values() for parent in prompt.birth.parents}
    assert parents
    assert all(known[parent].survived and worth(known[parent].text) >= GOOD for parent in parents)


def test_a_run_repeats_from_the_order_in_its_journal_at_any_pace() -> None:
    journal = SqliteJournal(":memory:")
    first = steady(journal)
    fresh = steady(toolbox=toolbox_of(evaluate=Waiting(2)))
    again = steady(journal, toolbox=toolbox_of(evaluate=Waiting(2)))
    assert tables(again) == tables(first)
    assert again.logbook == first.logbook
    # the pace alone makes another run of it
    assert tables(fresh) != tables(first)


def test_enough_survivors_end_the_breeding_and_what_is_begun_is_finished() -> None:
    evolution = steady(settings={"generations": 50, "target_survivors": 12})
    state = evolution.state
    born = [prompt for generation in state.finished[1:] for prompt in generation.candidates]
    assert state.stop_reason == "target_survivors"
    assert 12 <= len(state.survivors) < len(POOL) + 50 * 6
    assert len(born) < 50 * 6
    assert all(prompt.metrics is not None for prompt in born)
    assert {prompt.id for prompt in state.survivors} <= {prompt.id for g in state.finished for prompt in g.candidates}
    # the last generations may be short, but no slot is left out in the middle
    slots = [(prompt.birth.generation, prompt.birth.slot) for prompt in born]
    assert slots == [(number // 6 + 1, number % 6) for number in range(len(born))]


@pytest.mark.parametrize(("generations", "reason"), [(2, "no_parents"), (0, "generations")])
def test_a_pool_without_parents_ends_the_run(generations: int, reason: str) -> None:
    state = steady(pool=pool_of(0.9), settings={"generations": generations}).state
    assert (state.stop_reason, len(state.finished)) == (reason, 1)


def test_gated_offspring_fill_their_slot_and_never_join() -> None:
    gate = NoBad()

    def often_bad(parent: Prompt, exemplars: Sequence[Prompt], rng: Any) -> str:
        return f"{'bad' if rng.random() < 0.5 else 'fine'} offspring is worth 0.{rng.integers(10**9)}"

    evaluate = Evaluated()
    state = steady(toolbox=toolbox_of(mutate=often_bad, evaluate=evaluate), gates=[gate]).state
    offspring = [prompt for generation in state.finished[1:] for prompt in generation.candidates]
    bad = [prompt for prompt in offspring if prompt.gate == "no_bad"]
    assert 0 < len(bad) < len(offspring) == 18
    assert not any("bad" in text for text in evaluate.texts)
    assert not any(prompt.survived for prompt in bad)


def test_a_plain_deap_evaluate_is_called_for_each_offspring_and_counted() -> None:
    counts: list[tuple[int, int]] = []

    def evaluate(individual: Prompt) -> tuple[float, float, float]:
        return worth(individual.text), 10.0, 0.25

    def note(evolution: Any, generation: Generation) -> None:
        counts.append((evolution.state.proposed, evolution.state.evaluated))

    state = steady(toolbox=toolbox_of(evaluate=evaluate), on_generation=note).state
    assert len(state.finished) == 4
    assert all(prompt.survived == (worth(prompt.text) >= GOOD) for prompt in state.finished[3].candidates)
    # once a generation is finished, what is counted is of later ones
    assert counts[0] == (5, 5)
    assert all(proposed >= evaluated >= 0 for proposed, evaluated in counts)
    assert counts[3] == (0, 0)


def test_the_population_stays_within_its_bound_all_the_time() -> None:
    sizes: list[int] = []

    class Watching(Waiting):
        async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
            values = await super().__call__(individuals)
            sizes.append(len(evolution.state.population))
            return values

    journal = SqliteJournal(":memory:")
    evolution = evolution_of(
        POOL,
        loop=partial(SteadyState, order=MilestoneOrder(journal)),  # type: ignore[arg-type]
        journal=journal,
        toolbox=toolbox_of(evaluate=Watching(1)),
        settings={"generations": 3, "population": 4},
    )
    asyncio.run(evolution.run())
    assert max(sizes) == 4
    assert len(evolution.state.survivors) > 4
