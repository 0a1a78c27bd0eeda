"""Ranks and fronts agree with DEAP's own, and the front is DEAP's class."""

from __future__ import annotations

import numpy as np
import pytest
from deap import tools

from fittest.evo.pareto import ParetoFront, pareto_ranks
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth


def individuals(count: int, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt = Prompt(f"prompt {i}", Birth(operator="pool", generation=0, slot=i))
        # a coarse grid, so that ties occur
        prompt.fitness.values = tuple(rng.integers(0, 6, size=4).astype(float))
        made.append(prompt)
    return made


def test_ranks_agree_with_deap() -> None:
    population = individuals(120)
    ranks = dict(zip(population, pareto_ranks(population).tolist(), strict=True))
    for rank, front in enumerate(tools.sortNondominated(population, len(population))):
        assert all(ranks[individual] == rank for individual in front)


def test_the_front_agrees_with_deap_over_several_updates() -> None:
    ours, theirs = ParetoFront(), tools.ParetoFront()
    for seed in range(4):
        population = [p for p in individuals(60, seed) if p.fitness.valid]
        for i, prompt in enumerate(population):
            population[i] = renamed(prompt, f"{seed}-{i}")
        ours.update(population)
        theirs.update(population)
    assert {individual.text for individual in ours} == {individual.text for individual in theirs}
    assert isinstance(ours, tools.ParetoFront)


def renamed(prompt: Prompt, text: str) -> Prompt:
    twin = Prompt(text, prompt.birth)
    twin.fitness.values = prompt.fitness.values
    return twin


def test_the_front_is_sorted_best_first_and_holds_a_text_once() -> None:
    front, population = ParetoFront(), individuals(50)
    front.update(population)
    front.update(population)
    fitnesses = [individual.fitness for individual in front]
    assert fitnesses == sorted(fitnesses, reverse=True)
    assert len({individual.text for individual in front}) == len(front)


def test_an_individual_without_fitness_is_left_out() -> None:
    front = ParetoFront()
    front.update([Prompt("unscored", Birth(operator="pool", generation=0, slot=0))])
    assert len(front) == 0


def test_no_individuals_have_no_ranks() -> None:
    assert pareto_ranks([]).tolist() == []


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0, 4.0)])
def test_weights_are_up_up_down_up(values: tuple[float, ...]) -> None:
    prompt = Prompt("p", Birth(operator="pool", generation=0, slot=0))
    prompt.fitness.values = values
    assert prompt.fitness.wvalues == (1.0, 2.0, -3.0, 4.0)
