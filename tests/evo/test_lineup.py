"""A lineup is what `sorted` gives, looks at each prompt once, and is drawn from as from a plain list."""

from __future__ import annotations

import numpy as np

from fittest.evo.breeding import Stock
from fittest.evo.lineup import Lineup
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.evo.state import State


def prompts(count: int, *, seed: int = 0, every: int = 2) -> list[Prompt]:
    made = []
    for number in range(count):
        prompt = Prompt(f"prompt {seed} {number}", Birth(operator="pool", generation=0, slot=number))
        prompt.survived = number % every == 0
        made.append(prompt)
    return made


def breeds(prompt: Prompt) -> bool:
    return prompt.breeds


def identity(prompt: Prompt) -> str:
    return prompt.id


def test_what_comes_is_placed_as_sorting_would_and_looked_at_once() -> None:
    source, other, lineup = prompts(100), prompts(3, seed=1), Lineup(breeds)
    rest = prompts(300, seed=2)
    lineup.follow(source, other)
    for prompt in rest:
        source.append(prompt)
        assert lineup.follow(source, other) is lineup
    assert list(lineup) == sorted(filter(breeds, [*source, *other]), key=identity)
    assert lineup.looked_at == len(source) + len(other)


def test_another_list_or_a_shorter_one_is_read_from_its_beginning() -> None:
    source, lineup = prompts(50), Lineup(breeds)
    lineup.follow(source)
    del source[20:]
    assert list(lineup.follow(source)) == sorted(filter(breeds, source), key=identity)
    other = prompts(20, seed=3)
    assert list(lineup.follow(other)) == sorted(filter(breeds, other), key=identity)


def test_what_changes_its_mind_is_looked_at_again() -> None:
    state = State(scored=prompts(10))
    before = list(state.by_id("scored", wanted=breeds))
    before[0].outdated = True
    state.look_again()
    assert list(state.by_id("scored", wanted=breeds)) == before[1:]


def test_a_draw_from_a_lineup_is_the_draw_from_the_list() -> None:
    source = prompts(60, every=1)
    ordered = sorted(source, key=identity)
    lineup = Lineup(breeds).follow(source)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        without = [source[i] for i in rng.integers(0, 60, size=2)] + prompts(1, seed=9)
        drawn = [
            Stock(parents=[], survivors=survivors).draw_exemplars(8, np.random.default_rng(seed), without=without)
            for survivors in (lineup, ordered, [p for p in ordered if p not in without])
        ]
        assert drawn[0] == drawn[1] == drawn[2]
        assert not set(drawn[0][0]) & set(without)
