"""The few-shot operators: one new prompt from exemplars (self-rip), one parent (mutate) or two (cross).

Each asks for a raw completion that opens the answer inside a tag: small models go on with a list far more reliably
than they follow an instruction in a chat. Self-RIP is arXiv 2501.18578, section 3.3.2; mutation and crossover are ours.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from evo.records import Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from evo.prompt import Prompt

CLOSING_TAG = "</task>"
MUTATIONS = ("deepen", "add_constraint", "make_concrete", "change_domain", "rephrase")

# what would close the item, open another, or reach the engine's tokenizer as a special token
_MARKUP = re.compile(r"<(?=/?task\b|\||/?s>)", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n\s*\n")


class SelfRip:
    """Continues a numbered list of exemplars with one more item."""

    def __call__(self, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Ask for a fresh prompt in the manner of the exemplars."""
        return _propose("self_rip", exemplars)


class Mutate:
    """Rewrites one parent in one of five ways, drawn by `rng`.

    Args:
        mutations: the ways to draw from, all equally likely.
    """

    def __init__(self, *, mutations: Sequence[str] = MUTATIONS) -> None:
        unknown = [name for name in mutations if name not in MUTATIONS]
        if unknown or not mutations:
            raise ValueError(f"mutations must be some of {', '.join(MUTATIONS)}; found {list(mutations)}")
        self.mutations = tuple(mutations)

    def __call__(self, parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Ask for a changed form of the parent."""
        mutation = self.mutations[rng.integers(len(self.mutations))]
        return _propose(f"mutate/{mutation}", exemplars, parent=parent)


class Cross:
    """Joins two parents in one prompt that needs both."""

    def __call__(self, a: Prompt, b: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Ask for a prompt that descends from both parents."""
        return _propose("cross", exemplars, first=a, second=b)


def as_item(text: str) -> str:
    """A prompt as it may stand between our tags: what reads as markup gets a space, blank lines are closed up."""
    return _BLANK_LINES.sub("\n", _MARKUP.sub("< ", text.strip()))


def _propose(template: str, exemplars: Sequence[Prompt], **parents: Prompt) -> Proposal:
    shown = {role: as_item(parent.text) for role, parent in parents.items()}
    opening = (
        _templates()
        .get_template(f"{template}.j2")
        .render(exemplars=[as_item(exemplar.text) for exemplar in exemplars], **shown)
    )
    return Proposal(template, prompt=opening, stop=(CLOSING_TAG,))


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("operators"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
    )
