"""Reading run.toml: the file, and overrides from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.runs.config import Config, parse_config


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Returns a configuration that is read and checked; a relative path in it starts from the file's own folder.

    Args:
        path: the TOML file.
        overrides: "table.key=value" with a TOML value; a bare word is taken as a string.

    Raises:
        FittestError: the file, a line or a key is wrong; the message says which.
    """
    tables, said = read_tables(path, overrides)
    return parse_config(tables, name=said, folder=path.parent)


def read_tables(path: Path | None, overrides: Iterable[str] = (), *, unnamed: str = "") -> tuple[dict[str, Any], str]:
    """Returns the tables of a TOML file with overrides, and what to call it in messages.

    Args:
        path: the file; None stands for a file without tables.
        overrides: "table.key=value" with a TOML value; a bare word is taken as a string.
        unnamed: what to call it without a file.

    Raises:
        FittestError: the file cannot be read, or an override cannot be understood.
    """
    tables = {} if path is None else _tables_in(path)
    _overridden(tables, overrides)
    return tables, f"{unnamed if path is None else path}{_said_of(overrides)}"


def _tables_in(path: Path) -> dict[str, Any]:
    """Returns the tables of a TOML file but the one that fittest writes about itself."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FittestError(f"{path}: no such configuration; `fittest init > {path}` writes one") from None
    except OSError as error:
        raise FittestError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FittestError(f"{path}: is not TOML: {error}") from None
    tables.pop("fittest", None)
    return tables


def _said_of(overrides: Iterable[str]) -> str:
    """Returns the overrides for messages, by key alone: a value may be a secret that was put there by mistake."""
    return "".join(f" --set {override.partition('=')[0].strip()}" for override in overrides)


def _overridden(tables: dict[str, Any], overrides: Iterable[str]) -> None:
    """Sets each override in place."""
    for override in overrides:
        _override(tables, override)


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not parents or not last:
        found = key.strip() if equals else "without ="
        raise FittestError(f"--set {found}: write it as table.key=value, such as run.seed=7")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise FittestError(f"--set {key.strip()}: {parent} is a value, not a table")
    table[last] = parsed
