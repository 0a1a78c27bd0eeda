"""The generational loop: who is born, who survives, who is kept, and what ends a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution
from fittest.evo.prompt import Prompt
from fittest.evo.records import METRICS, Birth, Metrics, Proposal, Range, Thresholds
from fittest.evo.spending import Budget
from fittest.evo.state import Generation
from tests.evo.hand_made import GOOD, Evaluated, NoBad, evolution_of, improve, pool_of, texts, toolbox_of, worth
from tests.scripted_engine import Scripted, echo

POOL = pool_of(0.9, 0.1, 0.6, 0.4, 0.75)
SURVIVING_HUMANS = [human.text for human in POOL if worth(human.text) >= GOOD]


def finished(evolution: Evolution) -> Evolution:
    asyncio.run(evolution.run())
    return evolution


class FittedLate:
    """A policy whose cuts are known once it is fitted; it keeps what it was fitted to."""

    name = "late"

    def __init__(self) -> None:
        self.fitted_to: list[list[float]] = []

    def known(self, generation: int) -> Thresholds | None:
        return Thresholds("late", {"m1": Range(low=GOOD)}) if self.fitted_to else None

    def fit(self, generation: int, values: Any) -> Thresholds:
        self.fitted_to.append(values[:, METRICS.index("m1")].tolist())
        return Thresholds("late", {"m1": Range(low=GOOD)})


def test_candidates_stand_and_are_gated_in_slot_order_however_long_their_births_take() -> None:
    gate, born = NoBad(), []

    async def slow(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        text = await improve(parent, exemplars, rng)
        born.append(text)
        return text

    evolution = finished(evolution_of(POOL, toolbox=toolbox_of(mutate=slow), gates=[gate], settings={"offspring": 12}))
    offspring = [text for generation in evolution.state.finished[1:] for text in texts(generation.candidates)]
    for generation in evolution.state.finished[1:]:
        assert [prompt.birth.slot for prompt in generation.candidates] == list(range(12))
    assert gate.asked == [human.text for human in POOL] + offspring
    assert sorted(born) == sorted(offspring)
    assert born != offspring


def test_a_run_is_a_function_of_its_parts() -> None:
    one, other = (finished(evolution_of(POOL)) for _ in range(2))
    assert [texts(g.candidates) for g in one.state.finished] == [texts(g.candidates) for g in other.state.finished]
    assert one.logbook == other.logbook


def test_survivors_join_and_the_others_say_by_what_they_failed() -> None:
    state = finished(evolution_of(POOL, settings={"generations": 0})).state
    assert texts(state.population) == texts(state.survivors) == SURVIVING_HUMANS
    assert texts(state.scored) == [human.text for human in POOL]
    for prompt in state.finished[0].candidates:
        assert prompt.survived == (worth(prompt.text) >= GOOD)
        assert prompt.failed_metrics == (() if prompt.survived else ("m1",))


def test_everyone_is_bred_from_the_population_alone() -> None:
    state = finished(evolution_of(POOL, settings={"generations": 1})).state
    survivors = {prompt.id for prompt in state.finished[0].candidates if prompt.survived}
    born = [prompt.birth for prompt in state.finished[1].candidates]
    assert {parent for birth in born for parent in birth.parents} <= survivors
    assert all(birth.generation == 1 and birth.operator == "mutate" for birth in born)


def test_the_population_is_trimmed_by_select_and_no_survivor_is_forgotten() -> None:
    trimmed: list[tuple[list[str], int]] = []

    def best(individuals: Sequence[Prompt], k: int) -> list[Prompt]:
        trimmed.append((texts(individuals), k))
        return sorted(individuals, key=lambda prompt: -worth(prompt.text))[:k]

    state = finished(evolution_of(POOL, toolbox=toolbox_of(select=best), settings={"population": 4})).state
    ever = [prompt for generation in state.finished for prompt in generation.candidates if prompt.survived]
    assert state.survivors == ever
    assert state.population == sorted(ever, key=lambda prompt: -worth(prompt.text))[:4]
    # the three humans that survive are not too many
    assert [k for _, k in trimmed] == [4, 4]
    joined = SURVIVING_HUMANS + texts([prompt for prompt in state.finished[1].candidates if prompt.survived])
    assert trimmed[0][0] == joined


def test_without_a_bound_every_survivor_is_a_parent() -> None:
    state = finished(evolution_of(POOL, settings={"population": 0})).state
    assert state.population == state.survivors


@pytest.mark.parametrize("pool", [pool_of(0.9), pool_of()])
def test_fewer_than_two_scored_prompts_end_the_run(pool: list[Any]) -> None:
    state = finished(evolution_of(pool)).state
    assert (state.stop_reason, len(state.finished)) == ("no_parents", 1)
    # one prompt has no neighbour, so no diversity and no fitness
    assert state.scored == []


def test_one_prompt_that_lost_a_race_is_no_couple_of_parents() -> None:
    async def evaluate(individuals: Sequence[Prompt]) -> list[None]:
        individuals[0].eliminated = True
        return [None]

    state = finished(evolution_of(pool_of(0.9), toolbox=toolbox_of(evaluate=evaluate))).state
    assert (state.stop_reason, len(state.eliminated)) == ("no_parents", 1)


def test_a_pool_of_which_none_survived_is_bred_from_its_best() -> None:
    state = finished(evolution_of(pool_of(0.1, 0.4, 0.2), settings={"generations": 1})).state
    assert state.stop_reason == "generations"
    best = state.finished[0].candidates[1].id
    assert {prompt.birth.parents for prompt in state.finished[1].candidates} == {(best,)}


@pytest.mark.parametrize(("wanted", "generations"), [(3, 1), (4, 2), (0, 4)])
def test_the_run_ends_before_the_next_generation_once_enough_have_survived(wanted: int, generations: int) -> None:
    settings = {"generations": 3, "target_survivors": wanted}
    state = finished(evolution_of(POOL, settings=settings)).state
    assert len(state.finished) == generations
    assert state.stop_reason == ("target_survivors" if wanted else "generations")


def test_hooks_are_called_in_order_with_the_evolution_itself() -> None:
    events: list[tuple[Any, ...]] = []

    async def before(evolution: Evolution, number: int) -> None:
        events.append(("before", number, evolution, len(evolution.state.finished)))

    def after(evolution: Evolution, generation: Generation) -> None:
        assert evolution.state.finished[-1] is generation
        events.append(("after", generation.number, evolution, len(evolution.logbook)))

    evolution = finished(evolution_of(POOL, before_generation=before, on_generation=after))
    assert [event[:2] for event in events] == [("after", 0), ("before", 1), ("after", 1), ("before", 2), ("after", 2)]
    assert all(event[2] is evolution for event in events)
    assert [event[3] for event in events] == [1, 1, 2, 2, 3]


def test_what_a_hook_changes_holds_for_the_generation_that_follows() -> None:
    async def only_one_parent(evolution: Evolution, number: int) -> None:
        del evolution.state.population[1:]

    state = finished(evolution_of(POOL, before_generation=only_one_parent, settings={"generations": 1})).state
    assert {prompt.birth.parents for prompt in state.finished[1].candidates} == {(state.finished[0].candidates[0].id,)}


def test_gated_candidates_are_never_evaluated_and_never_survive() -> None:
    evaluate = Evaluated()
    gate = NoBad()

    def often_bad(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        return f"{'bad' if rng.random() < 0.5 else 'fine'} offspring is worth 0.{rng.integers(10**9)}"

    evolution = finished(evolution_of(POOL, toolbox=toolbox_of(evaluate=evaluate, mutate=often_bad), gates=[gate]))
    candidates = [prompt for generation in evolution.state.finished for prompt in generation.candidates]
    bad = [prompt for prompt in candidates if "bad" in prompt.text]
    assert len(candidates) == len(POOL) + 2 * 6
    assert 0 < len(bad) < 12
    assert all((prompt.gate, prompt.gate_reason, prompt.survived) == ("no_bad", "it says so", False) for prompt in bad)
    assert sorted(evaluate.texts) == sorted(texts([prompt for prompt in candidates if prompt.gate is None]))


def test_a_plain_deap_evaluate_is_mapped_over_all_that_passed_in_slot_order() -> None:
    mapped: list[list[str]] = []

    def evaluate(individual: Prompt) -> tuple[float, float, float]:
        return worth(individual.text), 10.0, 0.25

    def mapping(function: Any, individuals: Sequence[Prompt]) -> list[Any]:
        mapped.append(texts(individuals))
        return [function(individual) for individual in individuals]

    toolbox = toolbox_of(evaluate=evaluate, map=mapping)
    state = finished(evolution_of(POOL, toolbox=toolbox, settings={"pilot": frozenset({0})})).state
    assert mapped == [texts(generation.candidates) for generation in state.finished]
    # a pilot has no use where nothing is raced: all are mapped at once
    assert texts(state.finished[0].candidates) == [human.text for human in POOL]
    assert [prompt.survived for prompt in state.finished[0].candidates] == [True, False, True, False, True]
    assert state.evaluated == 6


def test_an_evaluate_that_finds_no_value_leaves_a_prompt_without_fitness() -> None:
    async def evaluate(individuals: Sequence[Prompt]) -> list[tuple[float, ...] | None]:
        return [None if "human 0" in each.text else (worth(each.text), 10, float("nan")) for each in individuals]

    state = finished(evolution_of(POOL, toolbox=toolbox_of(evaluate=evaluate))).state
    assert state.stop_reason == "no_parents"
    assert not any(prompt.fitness.valid or prompt.survived for prompt in state.finished[0].candidates)


def test_the_pilot_fits_the_cuts_before_the_rest_of_the_pool_is_evaluated() -> None:
    policy, known_at_evaluation = FittedLate(), {}

    async def evaluate(individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
        (prompt,) = individuals
        known_at_evaluation[prompt.birth.slot] = policy.known(0) is not None
        return [(worth(prompt.text), 10.0, 0.25)]

    settings = {"generations": 0, "pilot": frozenset({1, 4})}
    state = finished(evolution_of(POOL, toolbox=toolbox_of(evaluate=evaluate), policy=policy, settings=settings)).state
    assert known_at_evaluation == {0: True, 1: False, 2: True, 3: True, 4: False}
    assert policy.fitted_to == [[0.1, 0.75]]
    assert texts(state.survivors) == SURVIVING_HUMANS


def test_offspring_have_no_pilot() -> None:
    evaluate = Evaluated()

    def at_once(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        return f"offspring is worth 0.{rng.integers(10**9)}"

    settings = {"generations": 1, "pilot": frozenset({4})}
    evolution = evolution_of(POOL, toolbox=toolbox_of(evaluate=evaluate, mutate=at_once), settings=settings)
    humans, offspring = (texts(generation.candidates) for generation in finished(evolution).state.finished)
    assert evaluate.texts == [humans[4], *humans[:4], *offspring]


def test_without_a_pilot_the_cuts_are_fitted_to_the_whole_pool_once() -> None:
    policy = FittedLate()
    finished(evolution_of(POOL, policy=policy))
    assert policy.fitted_to == [[worth(human.text) for human in POOL]]


def test_prompts_that_lost_a_race_are_no_parents_but_may_be_bred_from_when_nothing_else_is_there() -> None:
    async def evaluate(individuals: Sequence[Prompt]) -> list[None]:
        for prompt in individuals:
            prompt.n_drawn, prompt.eliminated = 1, True
        return [None] * len(individuals)

    evolution = finished(evolution_of(pool_of(0.1, 0.2), toolbox=toolbox_of(evaluate=evaluate)))
    state = evolution.state
    assert state.stop_reason == "generations"
    assert (state.population, state.scored) == ([], [])
    assert len(state.eliminated) == 2 + 2 * 6
    assert [line["stopped"] for line in evolution.logbook] == [2, 6, 6]
    assert [line["pass_rate"] for line in evolution.logbook] == [0.0, 0.0, 0.0]


def test_who_lost_a_race_counts_in_the_pass_rates_and_other_cuts_may_have_let_it_pass() -> None:
    class Rising:
        name = "rising"

        def known(self, generation: int) -> Thresholds:
            return Thresholds("rising", {"m1": Range(low=GOOD + 0.01 * (generation > 1))})

    class Racing(Evaluated):
        async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
            values = await super().__call__(individuals)
            for prompt in individuals:
                if worth(prompt.text) < GOOD / 2:
                    prompt.metrics, prompt.eliminated = None, True
            return [value for value, prompt in zip(values, individuals, strict=True) if prompt.metrics] or [None]  # type: ignore[list-item]

    logbook = finished(evolution_of(POOL, toolbox=toolbox_of(evaluate=Racing()), policy=Rising())).logbook
    assert (logbook[0]["evaluated"], logbook[0]["stopped"], logbook[0]["pass_rate"]) == (5, 1, 3 / 5)
    assert [line["pass_rate_pool"] for line in logbook] == [3 / 5, 3 / 5, None]


def test_the_logbook_counts_what_the_tables_hold() -> None:
    evolution = finished(evolution_of(POOL, toolbox=toolbox_of(evaluate=Evaluated())))
    for line, generation in zip(evolution.logbook, evolution.state.finished, strict=True):
        assert line == generation.record
        worths = [worth(text) for text in texts(generation.candidates)]
        assert (line["evaluated"], line["passed"]) == (len(worths), sum(value >= GOOD for value in worths))
        assert line["pass_rate"] == line["passed"] / line["evaluated"]
        assert line["mean_m1"] == pytest.approx(np.mean(worths))
        assert line["pass_rate_pool"] == 3 / 5
        assert line["tau_m1"] == GOOD
    pool = [worth(human.text) for human in POOL]
    survivors = [value for value in pool if value >= GOOD]
    intensity = (np.mean(survivors) - np.mean(pool)) / np.std(pool)
    assert evolution.logbook[0]["selection_intensity_m1"] == pytest.approx(intensity)


def test_an_offspring_is_charged_with_what_was_asked_to_write_it() -> None:
    def ask(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        return Proposal("ask", prompt=f"write a prompt that is worth 0.{rng.integers(10**9)}")

    toolbox = toolbox_of(mutate=ask)
    evolution = finished(evolution_of(POOL, toolbox=toolbox, backend=Scripted(echo), settings={"generations": 1}))
    humans, offspring = (generation.candidates for generation in evolution.state.finished)
    assert all(prompt.spent.total.requests == 0 for prompt in humans)
    assert [prompt.spent["proposal"].requests for prompt in offspring] == [1] * 6
    assert evolution.logbook[1]["tokens"] == 6 * (3 + 5)
    assert all(prompt.text.startswith("WRITE A PROMPT") and prompt.birth.template == "ask" for prompt in offspring)


def test_a_cap_ends_the_run_with_its_name_and_keeps_what_is_finished() -> None:
    def ask(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        return Proposal("ask", prompt=f"write a prompt that is worth 0.{rng.integers(10**9)}")

    budget = Budget(max_requests=8)
    evolution = evolution_of(POOL, toolbox=toolbox_of(mutate=ask), backend=Scripted(echo), budget=budget)
    state = finished(evolution).state
    assert (state.stop_reason, len(state.finished)) == ("max_requests", 2)


def test_an_error_of_a_part_ends_the_run_as_it_is() -> None:
    async def evaluate(individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
        raise FittestError("the disk is full")

    evolution = evolution_of(POOL, toolbox=toolbox_of(evaluate=evaluate))
    with pytest.raises(FittestError, match="the disk is full"):
        asyncio.run(evolution.run())
    assert evolution.state.finished == []


def test_no_more_prompts_are_under_way_than_keep_the_engine_full() -> None:
    running, most = 0, 0

    async def evaluate(individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return [(worth(each.text), 10.0, 0.25) for each in individuals]

    pool = pool_of(*np.linspace(0.1, 0.9, 100).round(3).tolist())
    evolution = finished(evolution_of(pool, toolbox=toolbox_of(evaluate=evaluate), settings={"generations": 0}))
    assert most == evolution.prompts_at_once == 8 * 2


def test_notes_given_at_the_start_stay_before_those_of_the_run() -> None:
    async def note(evolution: Evolution, number: int) -> None:
        evolution.state.notes.append(f"before {number}")

    state = finished(evolution_of(POOL, notes=["from the start"], before_generation=note)).state
    assert state.notes == ["from the start", "before 1", "before 2"]


def test_another_judge_moves_the_cuts_and_leaves_those_it_does_not_ask_about() -> None:
    """All are worth one less to it, so that nobody passes cuts that stay where they are."""

    async def stricter(prompt: Prompt) -> tuple[list[Any], Metrics | None]:
        return [], Metrics(worth(prompt.text) - 1.0, 10, 0.25, 0, 1, 2)

    async def rejudge(evolution: Evolution, number: int) -> None:
        await evolution.rejudge(stricter, survivors=True)

    settings = {"generations": 1}
    state = finished(evolution_of(POOL, before_generation=rejudge, settings=settings)).state
    humans = state.finished[0].candidates
    assert texts([prompt for prompt in humans if prompt.survived]) == SURVIVING_HUMANS
    assert all(prompt.outdated for prompt in humans if prompt.survived)
    assert not any(prompt.outdated for prompt in humans if not prompt.survived)
    assert [prompt.metrics.m1 for prompt in humans if prompt.metrics] == [
        pytest.approx(worth(human.text) - 1.0) for human in POOL
    ]
    assert not {prompt.text for prompt in humans} & {prompt.text for prompt in state.population}


def test_the_birth_of_a_human_says_where_it_came_from() -> None:
    pool = pool_of(0.9, 0.8)
    prompts = finished(evolution_of(pool, settings={"generations": 0})).state.finished[0].candidates
    assert [prompt.birth for prompt in prompts] == [Birth(operator="pool", generation=0, slot=slot) for slot in (0, 1)]
