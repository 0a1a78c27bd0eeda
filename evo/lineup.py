"""Keeps prompts sorted by id while more of them come: what is bred from is not sorted for each offspring."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt

# beyond this share of all, sorting anew costs less than to insert one by one
_FEW = 0.02


class Lineup(Sequence["Prompt"]):
    """Holds the wanted prompts of some lists, sorted by id, in the way in which `sorted` orders them.

    Args:
        wanted: tells whether a prompt is taken in; the answer must not change later.

    Attributes:
        looked_at: the number of prompts that `wanted` was asked about so far.
    """

    def __init__(self, wanted: Callable[[Prompt], bool]) -> None:
        self.looked_at = 0
        self._wanted = wanted
        self._prompts: list[Prompt] = []
        self._sources: tuple[list[Prompt], ...] = ()
        self._taken: list[int] = []

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...

    @overload
    def __getitem__(self, place: slice) -> list[Prompt]: ...

    def __getitem__(self, place: int | slice) -> Prompt | list[Prompt]:
        return self._prompts[place]

    def place(self, prompt: Prompt) -> int | None:
        """Returns the position of a prompt; None if it is not among them."""
        found = bisect_left(self._prompts, prompt.id, key=_identity)
        return found if found < len(self._prompts) and self._prompts[found].id == prompt.id else None

    def follow(self, *sources: list[Prompt]) -> Lineup:
        """Takes in what has been appended to the lists since the last time, and returns itself.

        Args:
            *sources: the lists; if one of them is another list than the last time, all are read from the beginning.
        """
        same = len(sources) == len(self._sources) and all(map(_is, sources, self._sources))
        if not same or any(len(source) < taken for source, taken in zip(sources, self._taken, strict=True)):
            self._prompts, self._sources, self._taken = [], sources, [0] * len(sources)
        come = [prompt for source, taken in zip(sources, self._taken, strict=True) for prompt in source[taken:]]
        self._taken = [len(source) for source in sources]
        self.looked_at += len(come)
        fresh = [prompt for prompt in come if self._wanted(prompt)]
        if len(fresh) > _FEW * len(self._prompts):
            self._prompts = sorted([*self._prompts, *fresh], key=_identity)
        else:
            for prompt in fresh:
                insort(self._prompts, prompt, key=_identity)
        return self


def _is(one: object, other: object) -> bool:
    return one is other


def _identity(prompt: Prompt) -> str:
    return prompt.id
