"""The engine: prompts as individuals, the generational loop, budgets and seeds."""

from typing import TYPE_CHECKING, Any

from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
from fittest.evo.records import Completion, Message, Missing, Proposal, Request, Sampling

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution
    from fittest.evo.prompt import Prompt

__all__ = [
    "Completion",
    "EngineLostError",
    "Evolution",
    "FittestError",
    "Message",
    "Missing",
    "Prompt",
    "Proposal",
    "Request",
    "RequestFailedError",
    "Sampling",
]

_HOMES = {"Evolution": "fittest.evo.evolution", "Prompt": "fittest.evo.prompt"}


def __getattr__(name: str) -> Any:
    """Import what needs DEAP when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
