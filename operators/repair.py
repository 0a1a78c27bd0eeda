"""Provides the operator that mends a prompt which nearly survived, from what its answers show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.operators.wording import as_excerpt, as_item, proposed, rendered, worded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fittest.evo.breeding import BestAndWorst
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Proposal

_LESSONS_SHOWN = 2


class Repair:
    """Rewrites a prompt that nearly survived so that it can be answered well every time.

    It is shown with its best and its worst answer, and with what the metric that it failed by means. That is said of
    metrics as they are usually cut: a wish for a short worst answer has no words here.

    Attributes:
        mends: its parents are prompts that nearly survived, and it is given their answers.
    """

    mends = True

    def __call__(
        self,
        parent: Prompt,
        exemplars: Sequence[Prompt],
        rng: np.random.Generator,
        answers: Sequence[BestAndWorst | None],
    ) -> Proposal:
        """Asks for a better form of the parent; without answers, or without a fault of its own, it shows less."""
        items, wording = [as_item(exemplar.text) for exemplar in exemplars], worded("repair")
        order = rng.permutation(len(wording["lessons"]))[:_LESSONS_SHOWN]
        lessons = [wording["lessons"][place] for place in order.tolist()]
        (shown,) = answers
        best, worst = (None, None) if shown is None else map(as_excerpt, shown)
        fault = parent.failed_metrics[0] if parent.failed_metrics else "any"
        cases = [*lessons, {"task": as_item(parent.text), "best": best, "worst": worst, "fault": fault}]
        opening = rendered("completion/repair", exemplars=items, cases=cases, **wording)
        asked = [
            rendered("chat/repair", exemplars=() if turn else items, case=case, **wording)
            for turn, case in enumerate(cases)
        ]
        return proposed(f"repair/{fault}", opening, asked, [lesson["better"] for lesson in lessons])
