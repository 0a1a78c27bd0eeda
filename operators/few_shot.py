"""Provides the few-shot operators: one new prompt from exemplars (self-rip), one parent (mutate) or two (cross).

Each asks in two forms, of which a run takes the one that its engine serves: a text that the model continues, and a
chat. What is an item of a list in the text is a turn in the chat, with the item as the answer: small models repeat
the form of their earlier answers far more reliably than they obey (benchmarks/operator_yield.py). Self-RIP is
described in arXiv 2501.18578, section 3.3.2; mutation and crossover are our own.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.markup import FORMATS, Markup
from fittest.evo.records import Message, Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fittest.evo.prompt import Prompt

_OPENING_TAG, _CLOSING_TAG = "<task>", "</task>"

# the worked examples of each mutation, and how many are shown: a new draw each time keeps a model from copying one
_LESSONS, _LESSONS_SHOWN = 6, 3

# text that would close the item, open another, or reach the engine's tokenizer as a special token
_MARKUP = Markup(rf"(?i:</?task\b|<\||{FORMATS})")
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
        items = [_as_item(exemplar.text) for exemplar in exemplars]
        opening = _rendered("completion/self_rip", exemplars=items)
        asked = [_rendered("chat/self_rip", number=n + 1, last=n == len(items)) for n in range(len(items) + 1)]
        return _proposal("self_rip", opening, asked, items)


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
        name = self.mutations[rng.integers(len(self.mutations))]
        lessons = [int(lesson) for lesson in rng.permutation(_LESSONS)[:_LESSONS_SHOWN]]
        items, changed = [_as_item(exemplar.text) for exemplar in exemplars], _as_item(parent.text)
        mutation = _mutation(name)
        before, after = zip(*(mutation["pairs"][lesson] for lesson in lessons), strict=True)
        opening = _rendered("completion/mutate", exemplars=items, lessons=lessons, parent=changed, **mutation)
        asked = [
            _rendered("chat/mutate", exemplars=() if turn else items, task=task, request=mutation["request"])
            for turn, task in enumerate([*before, changed])
        ]
        return _proposal(f"mutate/{name}", opening, asked, after)


class Cross:
    """Asks for a prompt about one word from each of two parents, in a list where each prompt follows its words."""

    def __call__(self, a: Prompt, b: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a prompt that descends from both parents."""
        items, parents = [_as_item(exemplar.text) for exemplar in exemplars], [_as_item(a.text), _as_item(b.text)]
        inherited = list(dict.fromkeys(str(rng.choice(_telling_words(parent))) for parent in parents))
        opening = _rendered("completion/cross", exemplars=items, parents=parents, inherited=inherited)
        shown = [*items, *parents]
        asked = [_rendered("chat/cross", words=_telling_words(item), last=False) for item in shown]
        asked.append(_rendered("chat/cross", words=inherited, last=True))
        return _proposal("cross", opening, asked, shown)


def _as_item(text: str) -> str:
    """Returns a prompt in the form that fits between our tags: markup gets a space, and blank lines are removed."""
    return _BLANK_LINES.sub("\n", _MARKUP.defused(text.strip()))


def _telling_words(text: str) -> list[str]:
    """Returns the two longest words that are about something, in their order in the text."""
    # long words are seldom grammar, in other languages too, for which there is no list of words that say little
    words = list(dict.fromkeys(_WORD.findall(text)))
    about = [word for word in words if word.lower() not in _SAYS_LITTLE] or words or ["anything"]
    longest = sorted(about, key=len, reverse=True)[:2]
    return sorted(longest, key=about.index)


def _proposal(template: str, opening: str, asked: Sequence[str], answered: Sequence[str]) -> Proposal:
    """Returns a proposal in both forms; they have the same draws, so that the form changes nothing else in a run.

    Args:
        template: names the wording.
        opening: the text to continue, which ends with a tag that opens.
        asked: what the user says in each turn of the chat, the last of which is open.
        answered: the answers of all turns but the last.
    """
    messages = [Message("system", _rendered("chat/system"))]
    for question, answer in zip(asked, answered, strict=False):
        messages += [Message("user", question), Message("assistant", f"{_OPENING_TAG}{answer}{_CLOSING_TAG}")]
    messages.append(Message("user", asked[-1]))
    return Proposal(template, messages=tuple(messages), prompt=opening, stop=(_CLOSING_TAG,), prefill=_OPENING_TAG)


def _rendered(template: str, **names: object) -> str:
    return _templates().get_template(f"{template}.j2").render(**names)


@cache
def _mutation(name: str) -> dict[str, Any]:
    """Reads how one mutation is worded: a heading and a label for the text, a request for the chat, and examples."""
    return tomllib.loads(
        resources.files("fittest.operators").joinpath(f"templates/mutate/{name}.toml").read_text("utf-8")
    )


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
