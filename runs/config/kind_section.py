"""Sections that are chosen by one of their keys, such as `kind`: one class for each kind, with keys of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails

from fittest.evo.errors import FittestError
from fittest.runs.config.kinds import Kind, Kinds
from fittest.runs.config.section import Section, kind_of, mistake, mistakes_in, mistakes_of


class ChosenSection(Section):
    """A table in which one key says which others it takes.

    Attributes:
        KEY: that key.
        NEEDS: what a section of this class cannot do without, in words for the message that says so.
        SWITCH: a key that chooses another class of the same kind unless it is empty.
        WITH: what tells this class from others of the same kind, in words for messages.
        MAY_CHANGE: keys that may differ when a run goes on, since no result depends on them.
    """

    KEY: ClassVar[str] = "kind"
    NEEDS: ClassVar[str] = ""
    SWITCH: ClassVar[str] = ""
    WITH: ClassVar[str] = ""
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def variant(cls, tables: Mapping[str, Any]) -> type[ChosenSection]:
        """Returns the class for these keys, if a kind has several."""
        return cls

    def lasting(self) -> dict[str, Any]:
        """Returns the keys that a run cannot change when it goes on."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(self.MAY_CHANGE))


class KindSection(ChosenSection):
    """A table whose key `kind` says which others it takes."""

    kind: str


_Base = TypeVar("_Base", bound=ChosenSection)


class SectionKinds(Kinds, Generic[_Base]):
    """The kinds of one entry-point group that are chosen by a key of their section.

    What they read is a discriminated union in the sense of pydantic, but an open one: the sections of plug-ins belong
    to it as well.

    Args:
        group: the entry-point group.
        noun: what one of them is called in messages.
        built_in: the kinds that fittest brings itself.
        base: the class from which all their sections derive.
        default: the kind of a section that does not say which.
    """

    def __init__(
        self, group: str, noun: str, built_in: Mapping[str, Kind], *, base: type[_Base], default: str
    ) -> None:
        super().__init__(group, noun, built_in)
        self._base = base
        self._default = default

    def read(self, given: object, info: ValidationInfo) -> object:
        """Returns the section that a table describes; this is a validator of pydantic.

        Args:
            given: the table. Anything else is returned as it is, for pydantic to refuse or to take.
            info: holds the folder that relative paths start from.

        Raises:
            ValidationError: names each wrong key.
        """
        if type(given) is self._base:
            # the base class of the sections, which a user can make by hand, has none of the keys of its kind
            given = given.model_dump(exclude_unset=True)
        if not isinstance(given, Mapping):
            return given
        chooses = self._base.KEY
        name = given.get(chooses, self._default)
        try:
            section = self._section_of(name).variant(given)
        except FittestError as error:
            raise mistakes_in(self._base, [mistake("kind", str(error), chooses, found=name)]) from None
        tables = {key: value for key, value in given.items() if not self._says_nothing(section, key, value)}
        try:
            return section.model_validate({**tables, chooses: name}, context=info.context)
        except ValidationError as error:
            raise mistakes_in(section, self._in_words(section, name, error)) from None

    def _section_of(self, name: object) -> type[_Base]:
        if not isinstance(name, str):
            raise FittestError(f"expected a name, one of {', '.join(self.names())}")
        section = self[name].section
        assert section is not None  # _kind lets no other in, and the built-in ones have one
        return cast("type[_Base]", section)

    def _kind(self, loaded: object) -> Kind:
        kind = super()._kind(loaded)
        if kind.section is None or not issubclass(kind.section, self._base):
            found = "none" if kind.section is None else kind.section.__name__
            raise TypeError(f"expected a section that derives from {self._base.__name__}, found {found}")
        return kind

    def _says_nothing(self, section: type[ChosenSection], key: str, value: object) -> bool:
        """Tells whether a key is as good as absent, which a table that was written for another kind may rely on."""
        field = section.model_fields.get(key)
        if field is None:
            absent = value is None or (key == section.SWITCH and not value)
            return absent and key in _keys_of_all(self._base)
        return value is None or (field.is_required() and value in ("", [], ()))

    def _in_words(self, section: type[ChosenSection], name: str, error: ValidationError) -> Iterator[InitErrorDetails]:
        """Tells keys of other kinds from unknown ones, and says what is missing in the words of the section."""
        noun = self.noun if self.noun == section.KEY else f"{self.noun} {section.KEY}"
        title = f'{noun} "{name}"{section.WITH}'
        foreign, missing = [], []
        for found in mistakes_of(error):
            key, *inside = found.get("loc", ()) or ("",)
            if not inside and kind_of(found) == "unknown_key" and key in _keys_of_all(self._base):
                foreign.append(str(key))
            elif not inside and kind_of(found) == "missing":
                missing.append(str(key))
            else:
                yield found
        if foreign:
            yield mistake("foreign_key", f"{title} does not take {', '.join(sorted(foreign))}", found={})
        if missing:
            yield mistake("missing_key", f"{title} needs {section.NEEDS or ', '.join(missing)}", found={})


def _keys_of_all(base: type[ChosenSection]) -> set[str]:
    """Returns the keys of all sections that derive from a base."""
    return set(base.model_fields).union(*(_keys_of_all(section) for section in base.__subclasses__()))
