"""Chooses what a generation is bred from: the survivors in evolution, less selected prompts in the control arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from fittest.evo.breeding import Stock

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

ArmName = Literal["evolution", "random-few-shot", "self-instruct", "one-shot", "best-of-n"]


def _evolution(state: State) -> Stock:
    """Takes the population as parents and all survivors as exemplars."""
    return Stock.freeze(state.population, state.scored, state.eliminated)


def _random_few_shot(state: State) -> Stock:
    """Takes parents and exemplars from all prompts so far, survivors or not: there are generations, no selection."""
    return _unselected([*state.scored, *state.eliminated])


def _self_instruct(state: State) -> Stock:
    """Takes parents and exemplars from the unfiltered pool: there is neither selection nor inheritance."""
    return _unselected([prompt for prompt in [*state.scored, *state.eliminated] if prompt.birth.generation == 0])


def _one_shot(state: State) -> Stock:
    """Takes the pool's survivors only, as in Self-RIP: selection happens once, and offspring never become parents."""
    pool = [prompt for prompt in state.scored if prompt.birth.generation == 0]
    eliminated = [prompt for prompt in state.eliminated if prompt.birth.generation == 0]
    return Stock.freeze([prompt for prompt in pool if prompt.breeds], pool, eliminated)


def _unselected(prompts: Sequence[Prompt]) -> Stock:
    # sorted, so that a draw by seed does not depend on which prompt was scored first
    ordered = sorted(prompts, key=lambda prompt: prompt.id)
    return Stock(parents=ordered, survivors=ordered)


ARMS: dict[ArmName, Callable[[State], Stock]] = {
    "evolution": _evolution,
    "random-few-shot": _random_few_shot,
    "self-instruct": _self_instruct,
    "one-shot": _one_shot,
    # prompts as in self-instruct; the best of each generation by Pareto rank are taken, whatever the policy's cuts
    "best-of-n": _self_instruct,
}
"""A control arm differs from evolution in what it breeds from and in nothing else: operators and budget are equal."""
