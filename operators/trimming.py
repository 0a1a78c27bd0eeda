"""Trimming the population to its size: best Pareto rank first, then the more different, then the smaller id."""

from __future__ import annotations

from collections.abc import Sequence

from fittest.evo.pareto import pareto_ranks
from fittest.evo.prompt import Prompt


def select_by_rank_and_diversity(individuals: Sequence[Prompt], k: int) -> list[Prompt]:
    """The default `toolbox.select`: the k best individuals by (Pareto rank, −diversity, prompt id).

    An individual without a valid fitness comes after all others.
    """
    valid = [individual for individual in individuals if individual.fitness.valid]
    ranks = {individual.id: rank for individual, rank in zip(valid, pareto_ranks(valid).tolist(), strict=True)}
    worst = len(individuals)
    return sorted(
        individuals,
        key=lambda individual: (ranks.get(individual.id, worst), -(individual.diversity or 0.0), individual.id),
    )[:k]
