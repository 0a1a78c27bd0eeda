"""Carries a run from its configuration to its tables, and offers the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fittest.runs.config import Config, parse_config
    from fittest.runs.config.embedder import EmbedderSection
    from fittest.runs.config.engine import EngineSection
    from fittest.runs.config.file import load_config
    from fittest.runs.config.kinds import Kind
    from fittest.runs.config.paths import FileName, NameOrFile
    from fittest.runs.config.reward import RewardSection
    from fittest.runs.config.section import Section
    from fittest.runs.parts.assembly import build
    from fittest.runs.parts.rewards import RewardContext
    from fittest.runs.session import Result, run

__all__ = [
    "Config",
    "EmbedderSection",
    "EngineSection",
    "FileName",
    "Kind",
    "NameOrFile",
    "Result",
    "RewardContext",
    "RewardSection",
    "Section",
    "build",
    "load_config",
    "parse_config",
    "run",
]

_HOMES = {
    "Config": "fittest.runs.config",
    "load_config": "fittest.runs.config.file",
    "parse_config": "fittest.runs.config",
    "EmbedderSection": "fittest.runs.config.embedder",
    "EngineSection": "fittest.runs.config.engine",
    "FileName": "fittest.runs.config.paths",
    "Kind": "fittest.runs.config.kinds",
    "NameOrFile": "fittest.runs.config.paths",
    "RewardContext": "fittest.runs.parts.rewards",
    "RewardSection": "fittest.runs.config.reward",
    "Section": "fittest.runs.config.section",
    "build": "fittest.runs.parts.assembly",
    "Result": "fittest.runs.session",
    "run": "fittest.runs.session",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
