"""Reads small files of keys and values, JSON or TOML, which may hold something else than they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.reading.files import read_bytes, shown

Shape: TypeAlias = "Mapping[str, type | tuple[type, ...] | Shape]"
"""The keys that an object must have, and the types of their values."""

NUMBER = (int, float)
"""The types of a number."""

MAYBE_NUMBER = (int, float, NoneType)
"""The types of a number that may be missing."""

_MOST_BYTES = 64 << 20


def read_object(
    path: Path, shape: Shape | None = None, *, parse: Callable[[str], object] = json.loads
) -> dict[str, Any]:
    """Returns the object in a file.

    Args:
        path: the file.
        shape: the keys that it must have; None asks for none.
        parse: makes an object of the text; its errors are of the class ValueError.

    Raises:
        FittestError: the file is missing or cannot be read, or what it holds is not of this shape.
    """
    content = read_bytes(path, most=_MOST_BYTES)
    try:
        found = parse(content.decode())
    except RecursionError:
        raise FittestError(f"{shown(path)}: cannot be read: its brackets are nested too deep") from None
    except ValueError as error:
        raise FittestError(f"{shown(path)}: cannot be read: {visible(str(error)[:200])}") from None
    if not isinstance(found, dict):
        raise FittestError(f"{shown(path)}: holds a {type(found).__name__}; it should hold an object with keys")
    check_shape(path, found, shape or {})
    return found


def check_shape(path: Path, found: Mapping[str, Any], shape: Shape, *, partly: bool = False, inside: str = "") -> None:
    """Refuses an object that is not of a shape.

    Args:
        path: the file that holds it, for messages.
        found: the object.
        shape: the keys that it must have.
        partly: whether keys may be missing.
        inside: the key that leads to it, with a dot.

    Raises:
        FittestError: a key is missing, or its value is of another type.
    """
    for key, wanted in shape.items():
        if partly and key not in found:
            continue
        types = dict if isinstance(wanted, Mapping) else wanted
        if key not in found or not isinstance(found[key], types):
            what = f"holds a {type(found[key]).__name__} as" if key in found else "lacks"
            raise FittestError(f"{shown(path)}: {what} {inside}{key}; it is not what fittest wrote")
        if isinstance(wanted, Mapping):
            check_shape(path, found[key], wanted, partly=partly, inside=f"{inside}{key}.")
