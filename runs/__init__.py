"""Carries a run from its configuration to its tables, and offers the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fittest.runs.config import Config, parse_config
    from fittest.runs.config.file import load_config
    from fittest.runs.parts.assembly import build
    from fittest.runs.session import Result, run

__all__ = ["Config", "Result", "build", "load_config", "parse_config", "run"]

_HOMES = {
    "Config": "fittest.runs.config",
    "load_config": "fittest.runs.config.file",
    "parse_config": "fittest.runs.config",
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
