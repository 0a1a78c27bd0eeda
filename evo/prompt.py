"""Defines a prompt as a DEAP individual: the genome is the user message, the fitness is (m1, m2, m3, diversity)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from deap import base

from fittest.evo.spending import Ledger

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fittest.evo.records import Birth, Elimination, FreshDraw, MetricName, Metrics, Response


def prompt_id(text: str) -> str:
    """Returns the identity of a prompt: the first 16 hex digits of the SHA-256 of its UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# a module-level class: `deap.creator.create` puts classes into a global namespace, and warns when called twice
class RipFitness(base.Fitness):  # type: ignore[misc]
    """Holds the DEAP fitness (m1, m2, m3, diversity): the reward gap m3 is minimised, the others are maximised."""

    weights = (1.0, 1.0, -1.0, 1.0)


class Prompt:
    """Represents one individual: a prompt, its birth, what the gates said, and what its answers are worth.

    `fitness` is valid only when all four values are known and finite: DEAP takes NaN for a valid value.
    `gate` and `gate_reason` are set when a gate turned the prompt away; such a prompt is never sampled.
    `elimination` is what a race found against the prompt. `eliminated` says that sampling ended there, so that the
    prompt has no metrics; a prompt that is sampled fully for audit has an `elimination`, but is not `eliminated`.
    `audited` says whether it was sampled fully whatever a race found; it is None if it was not raced at all.
    `fresh` holds the draws that came after the first; `draws_passed` counts the draws that passed, the first among
    them. `survived` says that the prompt passed rejection, and all its draws, when its generation ended. `outdated`
    says that it would not pass the cuts of a judge that was trained later; nothing is bred from it any more.
    `spent` holds what it has cost so far, which includes its proposal and the judging of its answers.

    Args:
        text: the user message.
        birth: the record of how it came to be.
    """

    # slots, since a run holds a hundred thousand of these
    __slots__ = (
        "audited", "birth", "diversity", "draws_passed", "eliminated", "elimination", "embedding", "failed_metrics",
        "fitness", "fresh", "gate", "gate_reason", "id", "metrics", "n_drawn", "outdated", "responses", "spent",
        "survived", "text",
    )  # fmt: skip

    def __init__(self, text: str, birth: Birth) -> None:
        self.text = text
        self.id = prompt_id(text)
        self.birth = birth
        self.fitness = RipFitness()
        self.gate: str | None = None
        self.gate_reason: str | None = None
        self.embedding: NDArray[np.float32] | None = None
        self.responses: list[Response] = []
        self.n_drawn = 0
        self.metrics: Metrics | None = None
        self.elimination: Elimination | None = None
        self.eliminated = False
        self.audited: bool | None = None
        self.fresh: tuple[FreshDraw, ...] = ()
        self.draws_passed = 0
        self.diversity: float | None = None
        self.survived = False
        self.outdated = False
        self.failed_metrics: tuple[MetricName, ...] = ()
        self.spent = Ledger()

    @property
    def draws(self) -> int:
        """Returns the number of draws that were made of it, the first among them; one that lost its race counts."""
        return (self.n_drawn > 0 or self.metrics is not None) + len(self.fresh)

    @property
    def breeds(self) -> bool:
        """Tells whether it is a survivor by the cuts that count now."""
        return self.survived and not self.outdated

    def as_in(self, draw: FreshDraw) -> Prompt:
        """Returns a prompt that looks as this one would if the draw had been its first."""
        other = Prompt(self.text, self.birth)
        other.responses, other.n_drawn, other.metrics = draw.responses, draw.n_drawn, draw.metrics
        return other

    def turn_away(self, gate: str, reason: str) -> None:
        """Records the gate that rejected this prompt, and why."""
        self.gate, self.gate_reason = gate, reason

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Prompt({self.id}, {self.text[:40]!r}, fitness={self.fitness})"
