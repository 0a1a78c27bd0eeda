"""What is chosen by its name: the kinds that are built in, and those that other distributions bring as plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from fittest.evo.errors import FittestError
from fittest.runs.config.section import Section, near

_Thing = TypeVar("_Thing")


@dataclass(frozen=True)
class Kind:
    """One way to do a thing: the section that holds its keys, and the function that builds it.

    Args:
        build: returns the thing. It is called with the section, if there is one, and with what its group passes on.
            A string "module:function" is imported when it is first used.
        section: the class of its table in the configuration; None if it has no keys.
    """

    build: Callable[..., Any] | str
    section: type[Section] | None = None

    def make(self, section: Section | None, *given: Any) -> Any:
        """Returns the thing, built from its section."""
        build = self.build
        if isinstance(build, str):
            module, _, function = build.partition(":")
            build = getattr(import_module(module), function)
        return build(*given) if self.section is None else build(section, *given)


@dataclass(frozen=True)
class PlugIn:
    """One entry point of another distribution.

    Attributes:
        noun: what it is, such as "engine".
        name: the name by which a configuration chooses it.
        distribution: the distribution that brings it.
        version: the version of that distribution.
        target: the module and the object in it.
        problem: why it cannot be used; None if it can.
    """

    noun: str
    name: str
    distribution: str
    version: str
    target: str
    problem: str | None


class Registry(Generic[_Thing]):
    """The things of one entry-point group by name.

    A plug-in is imported when it is named and not before, so that a broken one harms only those who name it.

    Args:
        group: the entry-point group, such as "fittest.backends".
        noun: what one of them is called in messages, such as "engine".
        built_in: the things that fittest brings itself.
        accept: returns what an entry point gave, or raises a TypeError that says what was expected instead.
        reserved: more names that no plug-in may have.
    """

    def __init__(
        self,
        group: str,
        noun: str,
        built_in: Mapping[str, _Thing],
        *,
        accept: Callable[[object], _Thing],
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        self.group = group
        self.noun = noun
        self.built_in = built_in
        self._accept = accept
        self._taken = frozenset(built_in) | reserved

    def __contains__(self, name: str) -> bool:
        """Returns whether there is such a thing; nothing is imported to find out."""
        return name in self.built_in or any(point.name == name for point in self._points())

    def __getitem__(self, name: str) -> _Thing:
        """Returns the thing of that name.

        Args:
            name: the name of a built-in thing or of a plug-in.

        Raises:
            FittestError: there is none, there are two, or the plug-in that brings it cannot be loaded.
        """
        points = [point for point in self._points() if point.name == name]
        if not points:
            if name in self.built_in:
                return self.built_in[name]
            raise FittestError(self.unknown(name))
        return self._load(points)

    def unknown(self, name: str, others: Mapping[str, object] | None = None) -> str:
        """Returns the message about a name that nothing has, with the nearest known one.

        Args:
            name: the name that was given.
            others: more names that would have been right.
        """
        known = sorted({*self.names(), *(others or {})})
        nearest = near(name, known)
        hint = "" if nearest is None else f"did you mean {nearest!r}? "
        return f"unknown {self.noun} {name!r}; {hint}known are {', '.join(known)}"

    def names(self) -> list[str]:
        """Returns all names, sorted; nothing is imported."""
        return sorted({*self.built_in, *self.plugged()})

    def plugged(self) -> list[str]:
        """Returns the names of all plug-ins, sorted; nothing is imported."""
        return sorted({point.name for point in self._points()})

    def plug_ins(self) -> Iterator[PlugIn]:
        """Loads each plug-in, and yields what came of it."""
        for name in self.plugged():
            yield from self.plug_ins_named(name)

    def plug_ins_named(self, name: str) -> Iterator[PlugIn]:
        """Loads the plug-ins of one name, and yields what came of it: one if all is well, none if it is built in."""
        points = sorted((point for point in self._points() if point.name == name), key=_source)
        problem = None
        try:
            if points:
                self._load(points)
        except FittestError as error:
            problem = str(error)
        for point in points:
            distribution, version = _distribution(point)
            yield PlugIn(self.noun, name, distribution, version, point.value, problem)

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self.group))

    def _load(self, points: list[EntryPoint]) -> _Thing:
        """Returns what the only one of these entry points gives."""
        name, said = points[0].name, f"the {self.noun} {points[0].name!r}"
        brought = ", ".join(sorted(_source(point) for point in points))
        # neither the built-in thing nor the plug-in is taken silently: the user may have meant the other
        if name in self._taken:
            raise FittestError(f"{said} of {brought} has a name that fittest uses itself; uninstall it, or rename it")
        if len(points) > 1:
            raise FittestError(f"{said} is brought by several distributions: {brought}; uninstall all but one")
        try:
            return self._accept(points[0].load())
        except (Exception, SystemExit) as error:  # a plug-in may do anything when it is imported
            raise FittestError(f"{said} cannot be loaded: {_in_a_line(error)} (plug-in of {brought})") from error


class Kinds(Registry[Kind]):
    """The kinds of one entry-point group.

    Args:
        group: the entry-point group.
        noun: what one of them is called in messages.
        built_in: the kinds that fittest brings itself.
        reserved: more names that no plug-in may have.
    """

    def __init__(
        self, group: str, noun: str, built_in: Mapping[str, Kind], *, reserved: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(group, noun, built_in, accept=self._kind, reserved=reserved)

    def make(self, name: str, section: Section | None, *given: Any) -> Any:
        """Returns a thing of one kind, built from its section.

        Args:
            name: the name of the kind.
            section: its section; None if it has no keys.
            *given: what the group passes on besides.

        Raises:
            FittestError: there is no such kind, or it cannot be loaded or built.
        """
        kind = self[name]
        try:
            return kind.make(section, *given)
        except FittestError:
            raise
        except Exception as error:
            if name in self.built_in:
                raise
            raise FittestError(f"the {self.noun} {name!r} cannot be built: {_in_a_line(error)}") from error

    def _kind(self, loaded: object) -> Kind:
        if not isinstance(loaded, Kind):
            raise TypeError(f"expected a Kind, found {type(loaded).__name__}")
        return loaded


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _source(point: EntryPoint) -> str:
    return " ".join(_distribution(point)).strip()


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Returns name and version of the distribution that brings an entry point."""
    return ("an unknown distribution", "") if point.dist is None else (point.dist.name, point.dist.version)
