"""Labels instructions with a language model: by category, complexity, and the length of a good answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from fittest.evo.legible import legible
from fittest.evo.prompt import prompt_id
from fittest.evo.records import Completion, Failure, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.wording import chat

if TYPE_CHECKING:
    from collections.abc import Collection

    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Ask

_HIGHEST_COMPLEXITY = 10
_UNREAD = "no label could be read"
_GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=48)

_LINE = re.compile(
    r"^\W*(?P<key>category|complexity|length)\W*:[^\w\n-]*(?P<value>[^\n]*?)\W*$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Label:
    """Holds what a model says of an instruction; `complexity` is from 1 to 10.

    Attributes:
        CATEGORIES: the fifteen categories of Self-Taught Evaluators (arXiv 2408.02666); the paper trained on
            reasoning.
        LENGTHS: how long a good answer may be.
    """

    CATEGORIES: ClassVar = (
        "coding", "mathematical reasoning", "asking for advice", "brainstorming", "classification", "closed qa",
        "creative writing", "extraction", "inhabiting a character", "open qa", "rewriting", "summarization",
        "knowledge and reasoning", "humanities", "other",
    )  # fmt: skip
    LENGTHS: ClassVar = (
        "one sentence",
        "a few sentences",
        "one paragraph",
        "two paragraphs",
        "three or more paragraphs",
    )

    category: str
    complexity: int
    length: str

    @classmethod
    def read(cls, reply: Completion | Failure) -> Self | None:
        """Returns the label in a reply.

        Args:
            reply: the reply to one of `label_requests`.

        Returns:
            The label; None for a failure, or where a part is missing, unknown, or given twice with different values.
        """
        return cls._parsed(reply.text) if isinstance(reply, Completion) else None

    @classmethod
    def _parsed(cls, text: str) -> Self | None:
        """Reads a label whole or not at all: a part that was guessed would choose what a judge is trained on."""
        found: dict[str, set[str]] = {}
        for line in _LINE.finditer(legible(text)):
            found.setdefault(line["key"].lower(), set()).add(line["value"].strip().lower())
        values = {key: next(iter(given)) for key, given in found.items() if len(given) == 1}
        category, complexity, length = (values.get(key, "") for key in ("category", "complexity", "length"))
        number = re.fullmatch(rf"(\d+)(?:\s*/\s*{_HIGHEST_COMPLEXITY})?", complexity)
        if category not in cls.CATEGORIES or length not in cls.LENGTHS or number is None:
            return None
        return cls(category, int(number[1]), length) if 1 <= int(number[1]) <= _HIGHEST_COMPLEXITY else None


class LabelGrid:
    """Divides prompts by the label that an engine gives each: category, complexity, and length of a good answer.

    Each prompt is asked about once, greedily, at stage "judge"; a prompt whose label cannot be read has no place.

    Args:
        ask: sends requests to the engine.
        seeds: the run's seed tree.
    """

    asks = True
    axes: ClassVar = (Label.CATEGORIES, range(1, _HIGHEST_COMPLEXITY + 1), Label.LENGTHS)
    notes: ClassVar[Sequence[str]] = ()

    def __init__(self, *, ask: Ask, seeds: SeedTree) -> None:
        self._ask = ask
        self._seeds = seeds
        self._labels: dict[str, Label | None] = {}

    async def learn(self, prompt: Prompt) -> None:
        """Asks the engine for the label of a prompt."""
        if prompt.id not in self._labels:
            (reply,) = await self._ask(label_requests([prompt.text], seeds=self._seeds, sampling=_GREEDY))
            self._labels[prompt.id] = Label.read(reply)

    def places(self, prompts: Sequence[Prompt]) -> list[tuple[str, int, str] | None]:
        """Returns the label of each prompt that was asked about; None where it could not be read."""
        labels = (self._labels[prompt.id] for prompt in prompts)
        return [None if label is None else (label.category, label.complexity, label.length) for label in labels]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Says which instructions are taken; an empty set takes all.

    `least` and `most` are inclusive bounds of complexity.
    """

    categories: frozenset[str] = frozenset()
    lengths: frozenset[str] = frozenset()
    least: int = 1
    most: int = _HIGHEST_COMPLEXITY

    def refusal(self, label: Label | None) -> str | None:
        """Returns the reason to leave an instruction out, or None."""
        if label is None:
            return _UNREAD
        if self.categories and label.category not in self.categories:
            return f"category {label.category}"
        if self.lengths and label.length not in self.lengths:
            return f"length {label.length}"
        return None if self.least <= label.complexity <= self.most else f"complexity {label.complexity}"


def label_requests(instructions: Sequence[str], *, seeds: SeedTree, sampling: Sampling) -> list[Request]:
    """Returns one request for each instruction; `Label.read` reads the reply."""
    return [
        Request(
            "judge",
            sampling,
            seeds.engine_seed(Stream.LABEL, int(prompt_id(text), 16)),
            messages=chat(
                "label.j2", lists={"categories": Label.CATEGORIES, "lengths": Label.LENGTHS}, instruction=text
            ),
        )
        for text in instructions
    ]


def drawn(
    labels: Sequence[Label | None], taken: Collection[int], size: int, *, balance: bool, seeds: SeedTree
) -> list[int]:
    """Draws at most `size` of the instructions that are taken.

    Args:
        labels: the labels of all instructions.
        taken: the positions to draw from.
        size: the most instructions to draw.
        balance: draws one of each category after the other, so that small categories are represented.
        seeds: the seed tree.

    Returns:
        The positions that were drawn, in ascending order.
    """
    # all positions are permuted, not only the taken ones, so that a stricter choice draws from the same order
    ranked = [position for position in _permuted(len(labels), seeds) if position in set(taken)]
    if balance:
        place: dict[int, int] = {}
        counts: dict[str, int] = {}
        for position in ranked:
            label = labels[position]
            category = label.category if label is not None else ""
            place[position] = counts.get(category, 0)
            counts[category] = place[position] + 1
        ranked.sort(key=place.__getitem__)
    return sorted(ranked[:size])


def _permuted(count: int, seeds: SeedTree) -> list[int]:
    return [int(position) for position in seeds.generator(Stream.LABEL).permutation(count)]
