"""Carries a run from its configuration to its tables, and offers the command line."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.runs.config import Config, parse_config
    from fittest.runs.config.embedder import EmbedderSection
    from fittest.runs.config.engine import EngineSection
    from fittest.runs.config.file import load_config
    from fittest.runs.config.kinds import Kind
    from fittest.runs.config.paths import FileName, NameOrFile
    from fittest.runs.config.reward import RewardSection
    from fittest.runs.config.section import Section
    from fittest.runs.config.selection import SelectionSection
    from fittest.runs.parts.assembly import build
    from fittest.runs.parts.rewards import RewardContext
    from fittest.runs.parts.selection import PolicyContext
    from fittest.runs.session import Result, arun, run

__all__ = [
    "Config",
    "EmbedderSection",
    "EngineSection",
    "FileName",
    "Kind",
    "NameOrFile",
    "PolicyContext",
    "Result",
    "RewardContext",
    "RewardSection",
    "Section",
    "SelectionSection",
    "arun",
    "build",
    "load_config",
    "parse_config",
    "run",
]

# lazily, so that the command line answers at once
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["Config", "parse_config"],
        "config.embedder": ["EmbedderSection"],
        "config.engine": ["EngineSection"],
        "config.file": ["load_config"],
        "config.kinds": ["Kind"],
        "config.paths": ["FileName", "NameOrFile"],
        "config.reward": ["RewardSection"],
        "config.section": ["Section"],
        "config.selection": ["SelectionSection"],
        "parts.assembly": ["build"],
        "parts.rewards": ["RewardContext"],
        "parts.selection": ["PolicyContext"],
        "session": ["Result", "arun", "run"],
    },
)
