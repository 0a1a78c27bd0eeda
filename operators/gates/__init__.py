"""The gates, each in a file of its own, and the order in which they are asked: cheap before costly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.operators.gates.contamination import Contamination
from fittest.operators.gates.exact import Exact
from fittest.operators.gates.keywords import Keywords
from fittest.operators.gates.language import Language
from fittest.operators.gates.length import Length
from fittest.operators.gates.novelty import Novelty
from fittest.operators.gates.readable import Readable
from fittest.operators.gates.rouge_l import RougeL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fittest.evo.protocols import Gate

__all__ = ["Contamination", "Exact", "Keywords", "Language", "Length", "Novelty", "Readable", "RougeL", "build_gates"]


def build_gates(
    *,
    min_chars: int = 10,
    max_chars: int = 4000,
    languages: Sequence[str] = ("en",),
    keywords: Sequence[str] = ("image", "picture", "graph"),
    rouge_l: float = 0.7,
    novelty: float = 0.05,
    benchmarks: Mapping[str, Sequence[str]] | None = None,
) -> list[Gate]:
    """Returns the gates that a run asks, in their order; the arguments are the keys of `[gates]`.

    Two of the eight are always asked: `parse`, which tells whether there is a prompt at all, and `exact`, since a
    prompt is known by its text.

    Args:
        min_chars: the fewest characters.
        max_chars: the most characters; 0 sets no bound.
        languages: ISO 639 codes of what may pass; if empty, every language passes.
        keywords: whole words that are not wanted; if empty, every word passes.
        rouge_l: the least ROUGE-L F1 that counts as a copy; 0 switches the gate off.
        novelty: the least cosine distance to the nearest prompt; 0 switches the gate off.
        benchmarks: benchmark prompts by file name, to keep out.
    """
    return [
        Readable(),
        *([Length(min_chars=min_chars, max_chars=max_chars)] if min_chars or max_chars else []),
        Language(languages=languages),
        Keywords(keywords=keywords),
        Exact(),
        *([RougeL(threshold=rouge_l)] if rouge_l else []),
        *([Novelty(novelty=novelty)] if novelty else []),
        Contamination(benchmarks=benchmarks or {}),
    ]
