"""Offers the public names of the engine: prompts as individuals, the loops, errors and records.

Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
    from fittest.evo.evolution import Evolution
    from fittest.evo.prompt import Prompt, RipFitness
    from fittest.evo.records import (
        Completion,
        Message,
        Missing,
        Proposal,
        Range,
        Request,
        Sampling,
        Thresholds,
    )

__all__ = [
    "Completion",
    "EngineLostError",
    "Evolution",
    "FittestError",
    "Message",
    "Missing",
    "Prompt",
    "Proposal",
    "Range",
    "Request",
    "RequestFailedError",
    "RipFitness",
    "Sampling",
    "Thresholds",
]

# lazily, since DEAP, NumPy and torch take seconds to import, and `fittest --help` needs none of them
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["EngineLostError", "FittestError", "RequestFailedError"],
        "evolution": ["Evolution"],
        "prompt": ["Prompt", "RipFitness"],
        "records": [
            "Completion",
            "Message",
            "Missing",
            "Proposal",
            "Range",
            "Request",
            "Sampling",
            "Thresholds",
        ],
    },
)
