"""Prompts that are divided by what their text says, for tests of cells."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fittest.evo.cells import Cell
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Metrics


class ByFirstLetter:
    """Places a prompt by its first letter; one that begins with a digit has no place."""

    asks = False
    axes: Sequence[Sequence[Hashable]] = ("abcdefgh",)
    notes: Sequence[str] = ()

    async def learn(self, prompt: Prompt) -> None:
        raise AssertionError("nobody asks")

    def places(self, prompts: Sequence[Prompt]) -> Sequence[Cell | None]:
        return [None if prompt.text[0].isdigit() else (prompt.text[0],) for prompt in prompts]


def survivor(text: str, worth: float, *, generation: int = 0) -> Prompt:
    prompt = Prompt(text, Birth("pool", generation, 0))
    prompt.metrics = Metrics(worth, 10, 0.25, 0, 1, 2)
    prompt.survived = True
    return prompt
