"""Provides the few-shot operators: from exemplars (self-rip, reason), one parent (mutate) or two (cross, blend).

Each asks in two forms, of which a run takes the one that its engine serves: a text that the model continues, and a
chat. What is an item of a list in the text is a turn in the chat, with the item as the answer: small models repeat
the form of their earlier answers far more reliably than they obey (benchmarks/operator_yield.py). Self-RIP is
described in arXiv 2501.18578, section 3.3.2, and to reason before writing in arXiv 2507.23751; mutation and crossover
are our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.operators.wording import as_item, proposed, rendered, telling_words, thought_out, worded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Proposal

# the worked examples of each change, and how many are shown: a new draw each time keeps a model from copying one
_LESSONS, _LESSONS_SHOWN = 6, 3

# those that show how to think are longer
_THINKING_SHOWN = 2


class SelfRip:
    """Continues a numbered list of exemplars with one more item."""

    def __call__(self, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a new prompt in the manner of the exemplars."""
        items = [as_item(exemplar.text) for exemplar in exemplars]
        opening = rendered("completion/self_rip", exemplars=items)
        asked = [rendered("chat/self_rip", number=n + 1, last=n == len(items)) for n in range(len(items) + 1)]
        return proposed("self_rip", opening, asked, items)


class Reason:
    """Asks to think about the exemplars step by step, and then to write another prompt of their kind.

    This is how CoT-Self-Instruct writes prompts (arXiv 2507.23751). The reply needs room for the thoughts.
    """

    def __call__(self, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for thoughts about the exemplars, and a new prompt in tags after them."""
        items, wording = [as_item(exemplar.text) for exemplar in exemplars], worded("reason")
        lessons = wording["lessons"]
        shown = [lessons[place] for place in rng.permutation(len(lessons))[:_THINKING_SHOWN].tolist()]
        opening = rendered("completion/reason", heading=wording["heading"], shown=shown, exemplars=items)
        asked = [
            rendered("chat/reason", request=wording["request"], tasks=tasks)
            for tasks in (*(lesson["tasks"] for lesson in shown), items)
        ]
        return thought_out("reason", opening, asked, [rendered("chat/reasoned", **lesson) for lesson in shown])


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
        items, changed = [as_item(exemplar.text) for exemplar in exemplars], as_item(parent.text)
        mutation = worded(f"mutate/{name}")
        before, after = zip(*(mutation["pairs"][lesson] for lesson in lessons), strict=True)
        opening = rendered("completion/mutate", exemplars=items, lessons=lessons, parent=changed, **mutation)
        asked = [
            rendered("chat/mutate", exemplars=() if turn else items, task=task, request=mutation["request"])
            for turn, task in enumerate([*before, changed])
        ]
        return proposed(f"mutate/{name}", opening, asked, after)


class Cross:
    """Asks for a prompt about one word from each of two parents, in a list where each prompt follows its words."""

    def __call__(self, a: Prompt, b: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a prompt that descends from both parents."""
        items, parents = [as_item(exemplar.text) for exemplar in exemplars], [as_item(a.text), as_item(b.text)]
        inherited = list(dict.fromkeys(str(rng.choice(telling_words(parent))) for parent in parents))
        opening = rendered("completion/cross", exemplars=items, parents=parents, inherited=inherited)
        shown = [*items, *parents]
        asked = [rendered("chat/cross", words=telling_words(item), last=False) for item in shown]
        asked.append(rendered("chat/cross", words=inherited, last=True))
        return proposed("cross", opening, asked, shown)


class Blend:
    """Asks for a prompt that brings together what two parents are about; worked examples show what that means.

    `Cross` hands on a word of each parent, which may say little of what the parent is about.
    """

    def __call__(self, a: Prompt, b: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        """Asks for a prompt about the subjects of both parents at once."""
        items, parents = [as_item(exemplar.text) for exemplar in exemplars], [as_item(a.text), as_item(b.text)]
        wording = worded("blend")
        lessons = [wording["lessons"][place] for place in rng.permutation(_LESSONS)[:_LESSONS_SHOWN].tolist()]
        opening = rendered(
            "completion/blend", exemplars=items, heading=wording["heading"], lessons=lessons, parents=parents
        )
        asked = [
            rendered(
                "chat/blend", exemplars=() if turn else items, request=wording["request"], one=pair[0], other=pair[1]
            )
            for turn, pair in enumerate([*lessons, parents])
        ]
        return proposed("blend", opening, asked, [both for _, _, both in lessons])
