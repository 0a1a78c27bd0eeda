"""Evolutionary search over populations of prompts: the public names, each imported when it is first used."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.evo.errors import FittestError, NoSurvivorWarning
    from fittest.runs.config import Config, parse_config
    from fittest.runs.config.file import load_config
    from fittest.runs.filters.band import Band
    from fittest.runs.filters.cuts import By, Cuts
    from fittest.runs.filters.filter import FilterResult, filter
    from fittest.runs.filters.scoring import Scoring
    from fittest.runs.session import Result, arun, run
    from fittest.runs.sources.responses import Columns

__all__ = [
    "Band",
    "By",
    "Columns",
    "Config",
    "Cuts",
    "FilterResult",
    "FittestError",
    "NoSurvivorWarning",
    "Result",
    "Scoring",
    "arun",
    "filter",
    "load_config",
    "parse_config",
    "run",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evo.errors": ["FittestError", "NoSurvivorWarning"],
        "runs.config": ["Config", "parse_config"],
        "runs.config.file": ["load_config"],
        "runs.filters.band": ["Band"],
        "runs.filters.cuts": ["By", "Cuts"],
        "runs.filters.filter": ["FilterResult", "filter"],
        "runs.filters.scoring": ["Scoring"],
        "runs.session": ["Result", "arun", "run"],
        "runs.sources.responses": ["Columns"],
    },
)
