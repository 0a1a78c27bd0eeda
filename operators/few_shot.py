"""Provides the few-shot operators: one new prompt from exemplars (self-rip), one parent (mutate) or two (cross).

Each asks in two forms, of which a run takes the one that its engine serves: a text that the model continues, and a
chat. Both show the same exemplars and examples, and both want the answer inside tags. Self-RIP is described in arXiv
2501.18578, section 3.3.2; mutation and crossover are our own.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.records import Message, Proposal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from fittest.evo.prompt import Prompt

# the worked examples of each mutation, and how many are shown: a new draw each time keeps a model from copying one
_LESSONS, _LESSONS_SHOWN = 6, 3

# text that would close the item, open another, or reach the engine's tokenizer as a special token
_MARKUP = re.compile(r"<(?=/?task\b|\||/?s>)", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{2,}")
# words of requests and grammar: a prompt about "describe" would descend from no parent in particular
_SAYS_LITTLE = frozenset({
    "about", "and", "are", "between", "can", "could", "describe", "did", "different", "difference", "does", "explain",
    "find", "following", "for", "from", "give", "has", "have", "how", "into", "please", "should", "some", "something",
    "tell", "that", "the", "their", "there", "these", "things", "think", "this", "through", "want", "was", "what",
    "when", "where", "which", "while", "who", "why", "will", "with", "would", "write", "you", "your",
})  # fmt: skip


class SelfRip:
    """Continues a numbered list of exemplars with one more item."""

    def __call__(self, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a new prompt in the manner of the exemplars."""
        return _propose("self_rip", exemplars)


class Mutate:
    """Rewrites one parent in one of five ways, which is drawn by `rng` and shown by worked examples.

    Attributes:
        MUTATIONS: the five ways.

    Args:
        mutations: the ways to draw from, all equally likely.

    Raises:
        ValueError: one of them is not known, or there are none.
    """

    MUTATIONS = ("deepen", "add_constraint", "make_concrete", "change_domain", "rephrase")

    def __init__(self, *, mutations: Sequence[str] = MUTATIONS) -> None:
        unknown = [name for name in mutations if name not in self.MUTATIONS]
        if unknown or not mutations:
            raise ValueError(f"mutations must be some of {', '.join(self.MUTATIONS)}; found {list(mutations)}")
        self.mutations = tuple(mutations)

    def __call__(self, parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a changed form of the parent."""
        mutation = self.mutations[rng.integers(len(self.mutations))]
        lessons = [int(lesson) for lesson in rng.permutation(_LESSONS)[:_LESSONS_SHOWN]]
        return _propose(f"mutate/{mutation}", exemplars, lessons=lessons, parent=_as_item(parent.text))


class Cross:
    """Asks for a prompt about one word from each of two parents, in a list where each prompt follows its words."""

    def __call__(self, a: Prompt, b: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a prompt that descends from both parents."""
        parents = [_as_item(a.text), _as_item(b.text)]
        inherited = [str(rng.choice(_telling_words(parent))) for parent in parents]
        return _propose("cross", exemplars, parents=parents, inherited=dict.fromkeys(inherited))


def _as_item(text: str) -> str:
    """Returns a prompt in the form that fits between our tags: markup gets a space, and blank lines are removed."""
    return _BLANK_LINES.sub("\n", _MARKUP.sub("< ", text.strip()))


def _telling_words(text: str) -> list[str]:
    """Returns the two longest words that are about something, in their order in the text."""
    # long words are seldom grammar, in other languages too, for which there is no list of words that say little
    words = list(dict.fromkeys(_WORD.findall(text)))
    about = [word for word in words if word.lower() not in _SAYS_LITTLE] or words or ["anything"]
    longest = sorted(about, key=len, reverse=True)[:2]
    return sorted(longest, key=about.index)


def _propose(name: str, exemplars: Sequence[Prompt], **rest: object) -> Proposal:
    """Writes a proposal in both forms, from the same draws, so that the form changes nothing in the rest of a run.

    Args:
        name: the wording, `OPERATOR` or `OPERATOR/KIND`; a kind has a file that both forms of its operator lay out.
        exemplars: the prompts that are shown.
        **rest: what the operator has drawn.
    """
    shown = {"exemplars": [_as_item(exemplar.text) for exemplar in exemplars], **rest}
    opening = _laid_out("completion", name, shown)
    return Proposal(
        name,
        messages=(Message("system", _rendered("chat/system")), Message("user", _laid_out("chat", name, shown))),
        prompt=opening,
        stop=("</task>",),
        # a small model continues the list in its answer too, if the answer begins as the next line of the list
        prefill=opening[opening.rindex("\n") + 1 :],
    )


def _laid_out(form: str, name: str, shown: Mapping[str, object]) -> str:
    operator, _, kind = name.partition("/")
    layout = f"{form}/{operator}"
    return _rendered(name if kind else layout, layout=f"{layout}.j2", **shown)


def _rendered(template: str, **names: object) -> str:
    return _templates().get_template(f"{template}.j2").render(**names)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fittest.operators"),
        # a name that a template misspells shall be an error, and not an empty place in the request
        undefined=StrictUndefined,
        autoescape=False,
        # blanks around the blocks of a template must not reach the model, which would continue them
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["telling_words"] = _telling_words
    return environment
