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

_HIGHEST_COMPLEXITY = 10
_UNREAD = "no label could be read"

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
