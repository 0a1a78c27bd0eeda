"""Makes the rows of generations/NNNN.parquet and survivors.parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt

GENERATION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String, "prompt": pl.String, "slot": pl.Int64, "operator": pl.String, "template": pl.String,
    "parents": pl.List(pl.String), "exemplars": pl.List(pl.String), "gate": pl.String, "gate_reason": pl.String,
    "m1": pl.Float64, "m2": pl.Int64, "m3": pl.Float64, "diversity": pl.Float64, "n": pl.Int64, "n_drawn": pl.Int64,
    "stopped_by": pl.String, "censored": pl.Boolean, "survived": pl.Boolean, "failed_metrics": pl.List(pl.String),
    "source": pl.String, "licence": pl.String, "draws": pl.Int64, "draws_passed": pl.Int64, "audited": pl.Boolean,
}  # fmt: skip
"""The columns of generations/NNNN.parquet."""


class Answers(NamedTuple):
    """Keeps of a prompt's responses what its rows need, once they are put away.

    Attributes:
        scored: the number of responses that have a reward.
        pair: the samples that are the best and the worst response; empty without metrics, or without responses,
            which an evaluate of a user's own need not give.
    """

    scored: int = 0
    pair: tuple[int, ...] = ()


def candidate_row(prompt: Prompt, answers: Answers) -> dict[str, Any]:
    """Returns the row of a candidate.

    Args:
        prompt: the candidate.
        answers: what is known of its first draw.
    """
    metrics, birth = prompt.metrics, prompt.birth
    lost = prompt.elimination if prompt.eliminated else None
    bounds = lost or metrics
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "slot": birth.slot,
        "operator": birth.operator,
        "template": birth.template,
        "parents": list(birth.parents),
        "exemplars": list(birth.exemplars),
        "gate": prompt.gate,
        "gate_reason": prompt.gate_reason,
        "m1": None if bounds is None else bounds.m1,
        "m2": None if metrics is None else metrics.m2,
        "m3": None if bounds is None else bounds.m3,
        "diversity": prompt.diversity,
        "n": answers.scored,
        "n_drawn": prompt.n_drawn,
        "stopped_by": None if lost is None else lost.by,
        "censored": lost is not None,
        "survived": prompt.survived,
        "failed_metrics": list(prompt.failed_metrics),
        "source": birth.source,
        "licence": birth.licence,
        "draws": prompt.draws,
        "draws_passed": prompt.draws_passed,
        "audited": prompt.audited,
    }


def survivor_row(
    prompt: Prompt, *, chosen: Mapping[str, Any] | None, rejected: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the row of a survivor, less whether it is still a parent.

    Args:
        prompt: the survivor.
        chosen: the row of its best response in responses/NNNN.parquet; None if there is no response on record.
        rejected: that of its worst response.

    Raises:
        ValueError: it has no metrics.
    """
    metrics, birth = prompt.metrics, prompt.birth
    if metrics is None:
        raise ValueError(f"prompt {prompt.id} survived without metrics")
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "generation": birth.generation,
        "slot": birth.slot,
        "operator": birth.operator,
        "parents": list(birth.parents),
        "exemplars": list(birth.exemplars),
        "source": birth.source,
        "licence": birth.licence,
        "chosen": chosen["response"] if chosen else None,
        "rejected": rejected["response"] if rejected else None,
        "chosen_reward": chosen["reward"] if chosen else None,
        "rejected_reward": metrics.m1,
        # m2 may have been capped
        "rejected_length": rejected["length"] if rejected else metrics.m2,
        "reward_gap": metrics.m3,
        "diversity": prompt.diversity,
        "n": metrics.n,
        "chosen_truncated": chosen["truncated"] if chosen else None,
        "rejected_truncated": rejected["truncated"] if rejected else None,
        "reward_id": chosen["reward_id"] if chosen else None,
        "draws": prompt.draws,
        "draws_passed": prompt.draws_passed,
    }
