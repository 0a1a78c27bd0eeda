"""From a configuration to what offspring are bred from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fittest.evo.arms import ARMS, evolution
from fittest.evo.merit import Merit
from fittest.fitness.intraclass import intraclass
from fittest.operators.parents import lexicase, tournament

if TYPE_CHECKING:
    from fittest.evo.breeding import Stock
    from fittest.evo.state import Settings, State
    from fittest.runs.config import Config

_CHOICES = {"tournament": tournament, "lexicase": lexicase}


def picks_by_merit(config: Config) -> bool:
    """Tells whether a run compares its prompts by merit."""
    return config.archive.breeds or (config.run.arm == "evolution" and config.selection.parents in _CHOICES)


def merit_of(settings: Settings) -> Merit:
    """Returns what scores the prompts of a run, by the metrics that their offspring are to survive by."""
    return Merit(settings.offspring_metrics, intraclass, pilot=settings.pilot)


def stock_of(config: Config, merit: Merit) -> Callable[[State], Stock]:
    """Returns what gives the stock of a run.

    A control arm differs from evolution in what it is bred from, so it knows no other parents or exemplars.

    Args:
        config: the whole configuration.
        merit: scores prompts.
    """
    if config.run.arm != "evolution":
        return ARMS[config.run.arm]
    choice = _CHOICES.get(config.selection.parents)
    return partial(
        evolution,
        choice=None if choice is None else partial(choice, merit=merit),
        exemplars=config.operators.exemplars,
    )
