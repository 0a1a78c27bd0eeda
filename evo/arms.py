"""Chooses what a generation is bred from: the survivors in evolution, less selected prompts in the control arms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from fittest.evo.breeding import Stock, best_first

if TYPE_CHECKING:
    from fittest.evo.breeding import Choose
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

ArmName = Literal["evolution", "random-few-shot", "self-instruct", "one-shot", "best-of-n"]
ExemplarSource = Literal["survivors", "population"]


def evolution(
    state: State,
    *,
    choice: Callable[[State, Sequence[Prompt]], Choose] | None = None,
    exemplars: ExemplarSource = "survivors",
) -> Stock:
    """Takes the population as parents, and all survivors or the population as exemplars.

    Args:
        state: what the run has reached.
        choice: says how parents are drawn from the population; without it, each of them is as likely as another.
        exemplars: what serves as exemplars.
    """
    population = state.by_id("population", wanted=_any)
    return Stock(
        parents=population,
        survivors=state.by_id("scored", wanted=_breeds),
        rank_failed=partial(_best_failed, state),
        exemplars=population if exemplars == "population" else (),
        choose=None if choice is None else choice(state, population),
        nearly=partial(state.by_id, "scored", wanted=_nearly_survived),
    )


_ENOUGH = 64
"""More prompts than an operator is shown."""


@dataclass(frozen=True)
class _BestFirst:
    """Gives the prompts that failed, best first; those behind the front are ranked when they are asked for."""

    front: Sequence[Prompt]
    state: State

    def __iter__(self) -> Iterator[Prompt]:
        yield from self.front
        yield from best_first(self.state.scored, self.state.eliminated)[len(self.front) :]


def _best_failed(state: State) -> Iterable[Prompt]:
    front = state.failed.follow(state.scored)
    return _BestFirst(front, state) if len(front) >= _ENOUGH else best_first(state.scored, state.eliminated)


def _random_few_shot(state: State) -> Stock:
    """Takes parents and exemplars from all prompts so far, survivors or not: there are generations, no selection."""
    everyone = state.by_id("scored", "eliminated", wanted=_any)
    return Stock(parents=everyone, survivors=everyone)


def _self_instruct(state: State) -> Stock:
    """Takes parents and exemplars from the unfiltered pool: there is neither selection nor inheritance."""
    pool = state.by_id("scored", "eliminated", wanted=_human)
    return Stock(parents=pool, survivors=pool)


def _one_shot(state: State) -> Stock:
    """Takes the pool's survivors only, as in Self-RIP: selection happens once, and offspring never become parents."""
    pool = state.by_id("scored", wanted=_human)
    eliminated = state.by_id("eliminated", wanted=_human)
    return Stock.freeze([prompt for prompt in pool if prompt.breeds], pool, eliminated)


def _any(prompt: Prompt) -> bool:
    return True


def _breeds(prompt: Prompt) -> bool:
    return prompt.breeds


def _nearly_survived(prompt: Prompt) -> bool:
    """Tells whether a prompt failed by a single metric, or only on a fresh draw."""
    return not prompt.survived and (prompt.draws_passed > 0 or len(prompt.failed_metrics) == 1)


def _human(prompt: Prompt) -> bool:
    return prompt.birth.generation == 0


ARMS: dict[ArmName, Callable[[State], Stock]] = {
    "evolution": evolution,
    "random-few-shot": _random_few_shot,
    "self-instruct": _self_instruct,
    "one-shot": _one_shot,
    # prompts as in self-instruct; the best of each generation by Pareto rank are taken, whatever the policy's cuts
    "best-of-n": _self_instruct,
}
"""A control arm differs from evolution in what it breeds from and in nothing else: operators and budget are equal."""
