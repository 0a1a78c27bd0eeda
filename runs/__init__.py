"""The life of a run: configuration, pools, journal, tables, command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runs.assembly import build
    from runs.config import Config, parse_config
    from runs.config_file import load_config
    from runs.session import Result, run

__all__ = ["Config", "Result", "build", "load_config", "parse_config", "run"]

_HOMES = {
    "Config": "runs.config",
    "load_config": "runs.config_file",
    "parse_config": "runs.config",
    "build": "runs.assembly",
    "Result": "runs.session",
    "run": "runs.session",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
