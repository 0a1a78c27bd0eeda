"""What the tables of every configuration have in common: nothing unknown in them, and mistakes told in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from fittest.evo.errors import FittestError
from fittest.evo.hiding import holds_key, is_secret_name


class Section(BaseModel):
    """A table of run.toml; an unknown key is an error, since a misspelt one would be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _with_the_nearest_key(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Adds to each unknown key the known one that is probably meant; only the section knows which are known."""
        try:
            return handler(given)
        except ValidationError as error:
            raise mistakes_in(cls, (_nearest(mistake, cls.model_fields) for mistake in mistakes_of(error))) from None


_Checked = TypeVar("_Checked", bound=Section)


def checked(kind: type[_Checked], tables: Mapping[str, Any], *, name: str, folder: Path | None = None) -> _Checked:
    """Returns the tables as a section of this class.

    Args:
        kind: the class.
        tables: what a file or a caller gave.
        name: what to call it in messages.
        folder: the folder that relative paths start from; None leaves paths as they are.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    try:
        return kind.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        raise FittestError(f"{name}: " + "; ".join(_problem(dict(problem)) for problem in error.errors())) from None


def near(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a misspelt one most likely means, if any is near."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def mistakes_of(error: ValidationError) -> list[InitErrorDetails]:
    """Returns the mistakes in a form from which a new error can be made."""
    return [
        mistake(problem["type"], problem["msg"], *problem["loc"], found=problem["input"], **problem.get("ctx", {}))
        for problem in error.errors(include_url=False)
    ]


def mistake(kind: str, message: str, /, *at: str | int, found: Any, **context: Any) -> InitErrorDetails:
    """Returns one mistake.

    Args:
        kind: pydantic's word for it, such as "missing".
        message: the mistake in words.
        *at: the keys that lead to it from the section that is being read.
        found: the wrong value.
        **context: more about it.
    """
    return InitErrorDetails(type=PydanticCustomError(kind, message, context or None), loc=at, input=found)


def mistakes_in(section: type[Section], mistakes: Iterable[InitErrorDetails]) -> ValidationError:
    """Returns the error that tells all these mistakes."""
    return ValidationError.from_exception_data(section.__name__, list(mistakes))


def unknown_key(key: str, known: Iterable[str]) -> InitErrorDetails:
    """Returns the mistake of a key that a section does not have."""
    nearest = near(key, known)
    context = {} if nearest is None else {"near": nearest}
    return mistake("unknown_key", "unknown key", key, found=None, **context)


def kind_of(found: InitErrorDetails) -> str:
    """Returns pydantic's word for a mistake."""
    return found["type"] if isinstance(found["type"], str) else found["type"].type


def _nearest(found: InitErrorDetails, known: Iterable[str]) -> InitErrorDetails:
    """Returns the mistake with the nearest key, if it is an unknown key of this section and not of one inside."""
    at = found.get("loc", ())
    return unknown_key(str(at[0]), known) if kind_of(found) == "extra_forbidden" and len(at) == 1 else found


def _problem(problem: dict[str, Any]) -> str:
    """Returns one validation problem in words."""
    *inside, last = problem["loc"] or ("configuration",)
    key = ".".join(map(str, (*inside, last)))
    if problem["type"] == "unknown_key":
        nearest = problem.get("ctx", {}).get("near")
        hint = "" if nearest is None else f"; did you mean {'.'.join(map(str, (*inside, nearest)))}?"
        return f"unknown key {key}{hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(problem["input"], dict) or is_secret_name(str(last)) or holds_key(str(problem["input"])):
        return f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message}"
