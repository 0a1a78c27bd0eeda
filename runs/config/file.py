"""Reading run.toml: the file, and overrides from the command line."""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.config import Config, parse_config
from fittest.runs.reading.files import check_path, read_bytes, shown

_MOST_BYTES = 16 << 20
"""Size of a configuration; those that people write have some thousands."""


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
    if check_path(path) is None:
        raise FittestError(f"{shown(path)}: no such configuration; `fittest init > {shown(path)}` writes one")
    content = read_bytes(path, most=_MOST_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FittestError(f"{shown(path)}: is UTF-16 text; it should be UTF-8")
    try:
        tables = tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise FittestError(f"{shown(path)}: is not TOML: its brackets are nested too deep") from None
    # besides TOML's own error, a number of thousands of digits and bytes that are no UTF-8
    except ValueError as error:
        raise FittestError(f"{shown(path)}: is not TOML: {visible(str(error))}") from None
    if tables.pop("fittest", None) is not None:
        _complete_as_begun(tables)
    return tables


def _complete_as_begun(tables: dict[str, Any]) -> None:
    """Writes into the run.toml of an earlier fittest what its run did without saying so: there were no fresh draws.

    Its `race_audit` was of the confidence rule alone.
    """
    selection = tables.get("selection")
    if isinstance(selection, dict) and "confirm" not in selection:
        selection |= {"confirm": 0, "retest": 0.0}
        if "race_confidence" not in selection:
            selection["race_audit"] = 0.0


def _said_of(overrides: Iterable[str]) -> str:
    """Returns the overrides for messages, by key alone: a value may be a secret that was put there by mistake."""
    return "".join(f" --set {shown(override.partition('=')[0].strip())}" for override in overrides)


def _overridden(tables: dict[str, Any], overrides: Iterable[str]) -> None:
    """Sets each override in place."""
    for override in overrides:
        _override(tables, override)


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not parents or not last:
        found = key.strip() if equals else "without ="
        raise FittestError(f"--set {shown(found)}: write it as table.key=value, such as run.seed=7")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except RecursionError:
        raise FittestError(f"--set {shown(key.strip())}: its brackets are nested too deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise FittestError(f"--set {shown(key.strip())}: {error}") from None
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise FittestError(f"--set {shown(key.strip())}: {shown(parent)} is a value, not a table")
    table[last] = parsed
