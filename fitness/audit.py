"""Audits a run: a second reward scores the answers, and decides nothing (docs/audit.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fittest.evo.records import Missing

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Ask
    from fittest.evo.records import Completion, Failure, Request, Response
    from fittest.fitness.evaluator import RipEvaluator


class AuditedEvaluator:
    """Evaluates prompts, and then lets the audit score the same responses; metrics and races are over by then.

    Args:
        evaluator: evaluates, by the reward that decides.
        audit: an evaluator with the reward that decides nothing.
    """

    def __init__(self, evaluator: RipEvaluator, audit: RipEvaluator) -> None:
        self._evaluator = evaluator
        self._audit = audit

    async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...] | None]:
        """Returns what the evaluator does, when each response holds its audit.

        Args:
            individuals: prompts that passed the gates.
        """
        values = await self._evaluator(individuals)
        for individual in individuals:
            scored = await self._audit.rescore(individual)
            individual.responses = [
                replace(response, audit=_audit_of(other))
                for response, other in zip(individual.responses, scored, strict=True)
            ]
        return values


def _audit_of(scored: Response) -> float | Missing:
    return Missing(scored.missing or "no reward") if scored.reward is None else scored.reward


def as_audit(ask: Ask) -> Ask:
    """Returns the function by which a reward asks an engine for votes that decide nothing.

    They are requests of a stage of their own, so that another engine may serve them. References stay what they are,
    since both rewards compare with the same ones.

    Args:
        ask: sends requests to the run's engines.
    """

    async def ask_for_audit(requests: Sequence[Request]) -> list[Completion | Failure]:
        return await ask([replace(one, stage="audit") if one.stage == "judge" else one for one in requests])

    return ask_for_audit
