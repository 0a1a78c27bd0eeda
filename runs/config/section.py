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
from fittest.evo.visible import visible


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


MOST_LEVELS = 32
"""How deep the tables and lists of a configuration may be nested."""

MOST_WEIGHT = 1e100
"""How large a weight may be, so that no weighted sum overflows."""

MOST_KEYS = 2_000
"""How many keys a configuration may hold."""

_LONGEST_NAME = 100

MOST_TOLD = 20
"""How many mistakes a message tells."""

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
    _check_size(tables, name)
    try:
        return kind.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        told = [_problem(dict(problem)) for problem in error.errors()]
        more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
        raise FittestError(f"{name}: " + "; ".join([*told[:MOST_TOLD], *more])) from None


def _check_size(tables: Mapping[str, Any], name: str) -> None:
    """Refuses tables that nobody can have meant.

    Args:
        tables: the tables of a configuration.
        name: what to call it in messages.

    Raises:
        FittestError: they are nested too deep, hold too many keys, or an integer that no table of ours can hold.
    """
    keys = 0
    level: list[tuple[str, Any]] = [("", tables)]
    for _ in range(MOST_LEVELS):
        inside: list[tuple[str, Any]] = []
        for key, value in level:
            if isinstance(value, Mapping):
                keys += len(value)
                inside += [(f"{key}.{inner}" if key else str(inner), value[inner]) for inner in value]
            elif isinstance(value, (list, tuple)):
                inside += [(key, item) for item in value]
            elif isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise FittestError(f"{name}: {_key(key)} is an integer of more than 64 bits")
        if keys > MOST_KEYS:
            raise FittestError(f"{name}: holds more than {MOST_KEYS:,} keys, the limit of keys")
        level = inside
    if level:
        raise FittestError(f"{name}: {_key(level[0][0])} is nested more than {MOST_LEVELS} deep, the limit of levels")


def near(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a misspelt one most likely means, if any is near."""
    # comparing texts of any length would take forever, and no name is as long
    if len(name) > _LONGEST_NAME:
        return None
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
    *inside, last = map(_key, problem["loc"] or ("configuration",))
    key = ".".join((*inside, last))
    if problem["type"] == "unknown_key":
        nearest = problem.get("ctx", {}).get("near")
        hint = "" if nearest is None else f"; did you mean {'.'.join((*inside, str(nearest)))}?"
        return f"unknown key {key}{hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = _short(str(problem["msg"]).removeprefix("Value error, "), most=800)
    if isinstance(problem["input"], dict) or is_secret_name(last) or holds_key(str(problem["input"])):
        return f"{key}: {message}"
    return f"{key} = {_short(repr(problem['input']))}: {message}"


def _key(key: str | int) -> str:
    return _short(str(key), most=_LONGEST_NAME)


def _short(text: str, *, most: int = 200) -> str:
    return visible(text if len(text) <= most else f"{text[:most]}…")
