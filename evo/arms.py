"""Chooses what a generation is bred from: the survivors in evolution, less selected prompts in the control arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fittest.evo.breeding import Stock
from fittest.evo.prompt import Prompt

ArmName = Literal["evolution", "random-few-shot", "self-instruct", "one-shot", "best-of-n"]


@dataclass(frozen=True)
class Available:
    """Holds the prompts that a run can breed from.

    Attributes:
        population: the parents after trimming.
        scored: every prompt that has had a valid fitness so far.
        eliminated: the prompts that lost a race.
    """

    population: Sequence[Prompt]
    scored: Sequence[Prompt]
    eliminated: Sequence[Prompt]


def _evolution(available: Available) -> Stock:
    """Takes the population as parents and all survivors as exemplars."""
    return Stock.freeze(available.population, available.scored, available.eliminated)


def _random_few_shot(available: Available) -> Stock:
    """Takes parents and exemplars from all prompts so far, survivors or not: there are generations, no selection."""
    return _unselected([*available.scored, *available.eliminated])


def _self_instruct(available: Available) -> Stock:
    """Takes parents and exemplars from the unfiltered pool: there is neither selection nor inheritance."""
    return _unselected(
        [prompt for prompt in [*available.scored, *available.eliminated] if prompt.birth.generation == 0]
    )


def _one_shot(available: Available) -> Stock:
    """Takes the pool's survivors only, as in Self-RIP: selection happens once, and offspring never become parents."""
    pool = [prompt for prompt in available.scored if prompt.birth.generation == 0]
    eliminated = [prompt for prompt in available.eliminated if prompt.birth.generation == 0]
    return Stock.freeze([prompt for prompt in pool if prompt.breeds], pool, eliminated)


def _unselected(prompts: Sequence[Prompt]) -> Stock:
    # sorted, so that a draw by seed does not depend on which prompt was scored first
    ordered = sorted(prompts, key=lambda prompt: prompt.id)
    return Stock(parents=ordered, survivors=ordered)


ARMS: dict[ArmName, Callable[[Available], Stock]] = {
    "evolution": _evolution,
    "random-few-shot": _random_few_shot,
    "self-instruct": _self_instruct,
    "one-shot": _one_shot,
    # prompts as in self-instruct; the best of each generation by Pareto rank are taken, whatever the policy's cuts
    "best-of-n": _self_instruct,
}
"""A control arm differs from evolution in what it breeds from and in nothing else: operators and budget are equal."""
