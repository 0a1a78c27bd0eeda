"""Parents are drawn with the probabilities of DEAP's own selections, by the slot's generator alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deap import tools
from scipy.stats import chi2_contingency

from fittest.evo.breeding import Choose
from fittest.evo.merit import Merit
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Metrics, Thresholds
from fittest.evo.state import Generation, State
from fittest.fitness.intraclass import intraclass
from fittest.operators.parents import SIZE, lexicase, tournament

DRAWS = 6000
Selection = Callable[..., Choose]


def population(count: int = 12, *, seed: int = 1, ties: bool = False) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt = Prompt(f"prompt {number}", Birth("pool", 0, number))
        m1, m3 = rng.normal(size=2).round(0 if ties else 6).tolist()
        values = (m1, float(rng.integers(10, 500)), abs(m3), 0.0, 0.0, 0.0, 0.0)
        prompt.metrics = Metrics(m1, int(values[1]), abs(m3), 0, 1, 4, halves=(values, values))
        made.append(prompt)
    return made


def known(prompts: Sequence[Prompt]) -> tuple[State, Merit]:
    state = State(finished=[Generation(0, list(prompts), Thresholds("none", {}), {})])
    return state, Merit(["m1", "m2", "m3"], intraclass)


def shares(picks: Sequence[Any]) -> Counter[Any]:
    return Counter(picks)


def alike(one: Counter[Any], other: Counter[Any]) -> float:
    """The p-value of the hypothesis that two samples have the same distribution; rare outcomes are put together."""
    names = sorted({*one, *other})
    common = [name for name in names if one[name] + other[name] >= 20]
    table = [[counts[name] for name in common] for counts in (one, other)]
    rest = [sum(counts[name] for name in names if name not in common) for counts in (one, other)]
    if sum(rest):
        table = [[*row, more] for row, more in zip(table, rest, strict=True)]
    return float(chi2_contingency(table).pvalue)


def deap_individuals(prompts: Sequence[Prompt], merit: Merit) -> list[Any]:
    """What DEAP selects from: the summands of each merit as fitness values, all of which are maximised."""
    return [
        SimpleNamespace(id=p.id, score=sum(row), fitness=SimpleNamespace(values=tuple(row), weights=(1.0,) * len(row)))
        for p, row in zip(prompts, merit.cases(prompts).tolist(), strict=True)
    ]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ["tournament", "lexicase"])
def test_one_parent_is_drawn_as_deap_draws_it(name: str, ties: bool) -> None:
    prompts = population(ties=ties)
    state, merit = known(prompts)
    choose = {"tournament": tournament, "lexicase": lexicase}[name](state, prompts, merit=merit)
    ours = shares([choose(1, np.random.default_rng(seed))[0].id for seed in range(DRAWS)])
    individuals = deap_individuals(prompts, merit)
    random.seed(3)
    if name == "tournament":
        picked = tools.selTournament(individuals, DRAWS, SIZE, fit_attr="score")
    else:
        picked = tools.selAutomaticEpsilonLexicase(individuals, DRAWS)
    deaps = shares([individual.id for individual in picked])
    assert alike(ours, deaps) > 0.001
    # and not as if each of them were as likely
    assert alike(ours, shares([prompts[i % len(prompts)].id for i in range(DRAWS)])) < 1e-6


@pytest.mark.parametrize("name", ["tournament", "lexicase"])
def test_a_second_parent_is_drawn_as_deap_draws_from_the_others(name: str) -> None:
    prompts = population(10, seed=2)
    state, merit = known(prompts)
    choose = {"tournament": tournament, "lexicase": lexicase}[name](state, prompts, merit=merit)
    pairs = [tuple(parent.id for parent in choose(2, np.random.default_rng(seed))) for seed in range(DRAWS)]
    assert all(one != other for one, other in pairs)
    individuals = deap_individuals(prompts, merit)
    random.seed(4)
    deaps = []
    for _ in range(DRAWS):
        both: list[Any] = []
        for _ in range(2):
            left = [individual for individual in individuals if individual not in both]
            if name == "tournament":
                both += tools.selTournament(left, 1, SIZE, fit_attr="score")
            else:
                both += tools.selAutomaticEpsilonLexicase(left, 1)
        deaps.append(tuple(individual.id for individual in both))
    assert alike(shares(pairs), shares(deaps)) > 0.001


@pytest.mark.parametrize("selection", [tournament, lexicase])
def test_a_draw_follows_from_its_generator_alone(selection: Selection) -> None:
    prompts = population()
    state, merit = known(prompts)
    choose = selection(state, prompts, merit=merit)

    def drawn() -> list[list[Prompt]]:
        return [choose(2, np.random.default_rng(seed)) for seed in range(50)]

    random.seed(1)
    before, global_state = drawn(), random.getstate()
    np.random.seed(9)  # noqa: NPY002
    assert drawn()[::-1] == before[::-1]
    assert random.getstate() == global_state
    assert len({tuple(parent.id for parent in parents) for parents in before}) > 5


@pytest.mark.parametrize("selection", [tournament, lexicase])
def test_all_are_drawn_when_as_many_are_wanted(selection: Selection) -> None:
    prompts = population(4)
    state, merit = known(prompts)
    parents = selection(state, prompts, merit=merit)(4, np.random.default_rng(1))
    assert sorted(parent.id for parent in parents) == sorted(prompt.id for prompt in prompts)


@pytest.mark.parametrize("selection", [tournament, lexicase])
def test_where_metrics_are_luck_alone_each_is_as_likely_as_another(selection: Selection) -> None:
    rng = np.random.default_rng(5)
    prompts = population(10)
    for prompt in prompts:
        value, far = rng.normal(size=2).tolist()
        assert prompt.metrics is not None
        halves = ((value, 1.0, value, 0.0, 0.0, 0.0, 0.0), (-value, 2.0, -value, 0.0, 0.0, 0.0, 0.0))
        prompt.metrics = Metrics(far, 10, far, 0, 1, 4, halves=halves)
    state, merit = known(prompts)
    choose = selection(state, prompts, merit=merit)
    assert merit.reliability == {"m1": 0.0, "m2": 0.0, "m3": 0.0}
    drawn = shares([choose(1, np.random.default_rng(seed))[0].id for seed in range(DRAWS)])
    assert alike(drawn, shares([prompts[i % 10].id for i in range(DRAWS)])) > 0.001
