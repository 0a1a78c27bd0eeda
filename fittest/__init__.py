"""Evolutionary search over populations of prompts: the public names, each imported when it is first used."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.evo.errors import FittestError
    from fittest.runs.config import Config, parse_config
    from fittest.runs.config.file import load_config
    from fittest.runs.session import Result, run

__all__ = ["Config", "FittestError", "Result", "load_config", "parse_config", "run"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evo.errors": ["FittestError"],
        "runs.config": ["Config", "parse_config"],
        "runs.config_file": ["load_config"],
        "runs.session": ["Result", "run"],
    },
)
