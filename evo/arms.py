"""What a generation breeds from: in evolution the survivors, in the control arms something less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from fittest.evo.breeding import Stock

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

ArmName = Literal["evolution", "random-few-shot", "self-instruct", "one-shot", "best-of-n"]


def evolution(state: State) -> Stock:
    """The population are parents, all survivors are exemplars."""
    return Stock.freeze(state.population, state.scored, state.eliminated)


def random_few_shot(state: State) -> Stock:
    """Parents and exemplars at random from all prompts so far, survivors or not: generations without selection."""
    return _unselected([*state.scored, *state.eliminated])


def self_instruct(state: State) -> Stock:
    """Parents and exemplars at random from the pool, unfiltered: neither selection nor generations."""
    return _unselected([prompt for prompt in [*state.scored, *state.eliminated] if prompt.birth.generation == 0])


def one_shot(state: State) -> Stock:
    """The pool's survivors only, as in Self-RIP: selection once, and offspring never become parents."""
    pool = [prompt for prompt in state.scored if prompt.birth.generation == 0]
    eliminated = [prompt for prompt in state.eliminated if prompt.birth.generation == 0]
    return Stock.freeze([prompt for prompt in pool if prompt.breeds], pool, eliminated)


def _unselected(prompts: Sequence[Prompt]) -> Stock:
    ordered = sorted(prompts, key=lambda prompt: prompt.id)
    return Stock(parents=ordered, survivors=ordered)


ARMS: dict[ArmName, Callable[[State], Stock]] = {
    "evolution": evolution,
    "random-few-shot": random_few_shot,
    "self-instruct": self_instruct,
    "one-shot": one_shot,
    # prompts as in self-instruct; the best of each generation by Pareto rank are taken, whatever the policy's cuts
    "best-of-n": self_instruct,
}
"""The control arms differ from evolution in what they breed from, and in nothing else: same operators, same budget."""
