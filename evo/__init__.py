"""The engine: prompts as individuals, the generational loop, budgets and seeds."""

from typing import TYPE_CHECKING, Any

from evo.errors import EngineLostError, FittestError, RequestFailedError
from evo.records import Completion, Message, Missing, Proposal, Request, Sampling

if TYPE_CHECKING:
    from evo.evolution import Evolution
    from evo.prompt import Prompt

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

_HOMES = {"Evolution": "evo.evolution", "Prompt": "evo.prompt"}


def __getattr__(name: str) -> Any:
    """Import what needs DEAP when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
