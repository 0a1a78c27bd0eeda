"""Trimming the population to its size."""

from __future__ import annotations

import pytest

from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.operators.trimming import select_by_rank_and_diversity


def scored(text: str, diversity: float, m1: float = 1.0) -> Prompt:
    prompt = Prompt(text, Birth(operator="pool", generation=0, slot=0))
    prompt.diversity = diversity
    prompt.fitness.values = (m1, 1.0, 1.0, diversity)
    return prompt


def test_trimming_prefers_rank_then_diversity_then_id() -> None:
    best, plain = scored("best", 0.1, m1=5.0), scored("plain", 0.3)
    twins = sorted([scored("twin a", 0.2), scored("twin b", 0.2)], key=lambda prompt: prompt.id)
    dominated = scored("dominated", 0.05, m1=0.5)
    chosen = select_by_rank_and_diversity([dominated, *twins, plain, best], 4)
    assert chosen == [plain, best, twins[0], twins[1]]


def test_an_individual_without_fitness_goes_first() -> None:
    unscored = Prompt("unscored", Birth(operator="pool", generation=0, slot=0))
    assert select_by_rank_and_diversity([unscored, scored("scored", 0.1)], 1)[0].text == "scored"


@pytest.mark.parametrize("k", [0, 1, 3])
def test_trimming_gives_the_asked_number(k: int) -> None:
    assert len(select_by_rank_and_diversity([scored(str(i), 0.1) for i in range(3)], k)) == k
