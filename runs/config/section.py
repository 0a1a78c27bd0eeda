"""What the tables of every configuration have in common: nothing unknown in them, and mistakes told in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fittest.evo.errors import FittestError


def near(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a misspelt one most likely means, if any is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


class Section(BaseModel):
    """A table of run.toml; an unknown key is an error, since a misspelt one would be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Section)


def checked(kind: type[Checked], tables: dict[str, Any], *, name: str) -> Checked:
    """The tables as a section of this kind.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        raise FittestError(f"{name}: " + "; ".join(_problem(dict(problem)) for problem in error.errors())) from None


def _problem(problem: dict[str, Any]) -> str:
    """One validation problem in words."""
    key = ".".join(str(part) for part in problem["loc"]) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(problem["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message}"
