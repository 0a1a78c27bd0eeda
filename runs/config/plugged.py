"""Sections that hold, beside keys of their own, a table for each plug-in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import ConfigDict, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails

from fittest.evo.errors import FittestError
from fittest.runs.config.kinds import Kinds
from fittest.runs.config.section import Section, mistake, mistakes_in, mistakes_of, unknown_key


class PluggedSection(Section):
    """A section such as [gates], in which a table [gates.NAME] holds the keys of the plug-in NAME."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def kinds(cls) -> Kinds:
        """Returns the kinds that may have a table here."""
        raise NotImplementedError

    @classmethod
    def named(cls, given: Mapping[str, Any]) -> Iterable[str]:
        """Returns the names of plug-ins that are chosen by a key of this section, and need no table."""
        return ()

    @property
    def tables(self) -> dict[str, Section]:
        """Returns the sections of plug-ins by name."""
        return dict(self.model_extra or {})

    @model_validator(mode="wrap")
    @classmethod
    def _tables_of_plug_ins(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(given, Mapping):
            return handler(given)
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        chosen: dict[str, Any] = {
            name: {} for name in cls.named(given) if name in cls.kinds() and name not in cls.kinds().built_in
        }
        mistakes: list[InitErrorDetails] = []
        for name, table in {**chosen, **{key: value for key, value in given.items() if key not in own}}.items():
            try:
                own[name] = cls._section_of(name, table, info)
            except ValidationError as error:
                mistakes += mistakes_of(error)
        try:
            made = handler(own)
        except ValidationError as error:
            raise mistakes_in(cls, [*mistakes_of(error), *mistakes]) from None
        if mistakes:
            raise mistakes_in(cls, mistakes)
        return made

    @classmethod
    def _section_of(cls, name: str, table: object, info: ValidationInfo) -> Section:
        """Returns the section of a plug-in.

        Args:
            name: the name of the plug-in.
            table: its table.
            info: holds the folder that relative paths start from.

        Raises:
            ValidationError: there is no such plug-in, it cannot be loaded, or a key of it is wrong.
        """
        if isinstance(table, Section):
            return table
        kinds = cls.kinds()
        if name not in kinds or name in kinds.built_in:
            raise mistakes_in(cls, [unknown_key(name, {*cls.model_fields, *kinds.plugged()})])
        try:
            section = kinds[name].section or Section
            return section.model_validate(table, context=info.context)
        except FittestError as error:
            raise mistakes_in(cls, [mistake("plug_in", str(error), name, found=table)]) from None
        except ValidationError as error:
            raise mistakes_in(
                cls, [{**found, "loc": (name, *found.get("loc", ()))} for found in mistakes_of(error)]
            ) from None
