"""The best of those that failed are known without ranking all of them again."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.evo import arms
from fittest.evo.breeding import best_first
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.evo.state import State


def scored(number: int, rng: np.random.Generator, *, survived: bool = False) -> Prompt:
    prompt = Prompt(f"prompt {number}", Birth(operator="pool", generation=0, slot=number))
    measure(prompt, rng)
    prompt.survived = survived
    return prompt


def measure(prompt: Prompt, rng: np.random.Generator) -> None:
    # few values, so that some are equal
    prompt.fitness.values = tuple(rng.integers(0, 12, size=4) / 4.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_that_of_ranking_all_whatever_joins_or_changes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "_ENOUGH", 3)
    rng, state = np.random.default_rng(seed), State()
    for number in range(300):
        state.scored.append(scored(number, rng, survived=bool(rng.random() < 0.1)))
        if rng.random() < 0.1:
            some = [state.scored[place] for place in rng.integers(len(state.scored), size=5)]
            state.failed.measured_again(some)
            for prompt in some:
                measure(prompt, rng)
        if rng.random() < 0.02:
            state.scored[int(rng.integers(len(state.scored)))].outdated = True
            state.look_again()
        if rng.random() < 0.7:
            found = arms.ARMS["evolution"](state).failed
            assert list(map(id, found)) == list(map(id, best_first(state.scored, state.eliminated)))


def test_what_an_offspring_is_shown_is_frozen_when_it_is_drawn() -> None:
    rng, state = np.random.default_rng(1), State()
    state.scored += [scored(number, rng) for number in range(50)]
    before = state.failed.follow(state.scored)
    names = [prompt.id for prompt in before]
    best = scored(50, rng)
    best.fitness.values = tuple(100.0 * weight for weight in best.fitness.weights)
    state.scored.append(best)
    assert [prompt.id for prompt in state.failed.follow(state.scored)] == [best.id]
    assert [prompt.id for prompt in before] == names


def test_few_are_ranked_for_each_that_joins() -> None:
    rng, state = np.random.default_rng(2), State()
    state.scored += [scored(number, rng) for number in range(5000)]
    front = len(state.failed.follow(state.scored))
    first = state.failed.ranked
    for number in range(200):
        state.scored.append(scored(5000 + number, rng))
        state.failed.follow(state.scored)
        state.failed.measured_again(state.scored[-1:])
    assert first == 5000
    assert state.failed.ranked - first <= 200 * (front + 50)
