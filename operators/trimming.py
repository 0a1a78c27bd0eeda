"""Trims the population to its size: best Pareto rank first, then the more different prompt, then the smaller id."""

from __future__ import annotations

from collections.abc import Sequence

from fittest.evo.pareto import pareto_ranks
from fittest.evo.prompt import Prompt


def select_by_rank_and_diversity(individuals: Sequence[Prompt], k: int) -> list[Prompt]:
    """Returns the k best individuals by (Pareto rank, −diversity, prompt id).

    This is the default `toolbox.select`. It decides which individuals stay in the population; parents are then drawn
    from them at random. An individual without a valid fitness comes after all others.

    Args:
        individuals: the individuals to choose from.
        k: the number of individuals that stay.
    """
    valid = [individual for individual in individuals if individual.fitness.valid]
    ranks = {individual.id: rank for individual, rank in zip(valid, pareto_ranks(valid).tolist(), strict=True)}
    worst = len(individuals)  # beyond every rank, since there are no more ranks than individuals
    return sorted(
        individuals,
        key=lambda individual: (ranks.get(individual.id, worst), -(individual.diversity or 0.0), individual.id),
    )[:k]
