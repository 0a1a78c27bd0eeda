"""Figures of a generation: metrics of many prompts as one table, and what selection did to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from deap import tools

from fittest.evo.records import METRICS, RIP_METRICS, MetricName, Metrics, Thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt

_FITNESS = (*RIP_METRICS, "diversity")
"""A fitness has these values, in this order."""


def metric_values(prompts: Iterable[Prompt]) -> NDArray[np.float64]:
    """Returns the metrics of the prompts that have some, in the order of `METRICS`, shape (prompts, len(METRICS))."""
    return values_of(prompt.metrics for prompt in prompts)


def values_of(metrics: Iterable[Metrics | None]) -> NDArray[np.float64]:
    """Returns the metrics that are not None, in the order of `METRICS`, shape (prompts, len(METRICS))."""
    rows = [each.values for each in metrics if each is not None]
    return np.array(rows, dtype=np.float64).reshape(-1, len(METRICS))


def _selection_intensity(evaluated: NDArray[np.float64], passed: NDArray[np.float64]) -> list[float | None]:
    """(Mean of survivors − mean of evaluated) / standard deviation of evaluated, of each metric; None if undefined."""
    if not (len(evaluated) and len(passed)):
        return [None] * evaluated.shape[1]
    spread = evaluated.std(axis=0)
    shift = passed.mean(axis=0) - evaluated.mean(axis=0)
    noise = 1e-12 * np.abs(evaluated).max(axis=0)
    return [float(s / d) if d > n else None for s, d, n in zip(shift, spread, noise, strict=True)]


@dataclass(frozen=True)
class ScoredPool:
    """The human prompts, by which the cuts of every generation are measured.

    Attributes:
        values: metrics of those that were sampled fully, shape (prompts, len(METRICS)).
        eliminated: the number of those that lost a race.
        cuts: against which they were raced.
    """

    values: NDArray[np.float64]
    eliminated: int
    cuts: Thresholds

    @classmethod
    def of(cls, accepted: Sequence[Prompt], cuts: Thresholds) -> Self:
        """Returns the pool as it was evaluated in its own generation."""
        return cls(metric_values(accepted), sum(prompt.eliminated for prompt in accepted), cuts)

    def pass_rate(
        self,
        thresholds: Thresholds,
        reject: Callable[..., Sequence[tuple[MetricName, ...]]],
        metrics: Sequence[MetricName],
    ) -> float | None:
        """Returns the share of the human prompts that pass these cuts by all of the pool's metrics.

        Args:
            thresholds: the cuts of a generation.
            reject: gives the metrics that each prompt fails by.
            metrics: those that count for the pool.

        Returns:
            None without cuts (policy pareto), and if the pool was raced against other cuts: a prompt that was
            eliminated might pass these.
        """
        uncertain = self.eliminated and thresholds != self.cuts
        if not len(self.values) or thresholds.policy == "pareto" or uncertain:
            return None
        failures = reject(self.values, thresholds, metrics)
        return sum(not failed for failed in failures) / (len(self.values) + self.eliminated)


def fitness_statistics() -> tools.Statistics:
    """Returns DEAP's statistics over fitness values; a user may register more of them."""
    statistics = tools.Statistics(key=lambda individual: individual.fitness.values)
    statistics.register("mean", np.mean, axis=0)
    return statistics


def generation_record(
    number: int,
    candidates: Sequence[Prompt],
    thresholds: Thresholds,
    *,
    statistics: tools.Statistics,
    race_audit: float = 0.0,
) -> dict[str, Any]:
    """Returns what the candidates of a generation say of it, for its line in the logbook.

    Args:
        number: of the generation.
        candidates: all of them, those that the gates turned away among them.
        thresholds: its cuts.
        statistics: DEAP's, with a "mean" over fitness values.
        race_audit: the share of raced prompts that were sampled fully all the same. If it is not 0, means and
            intensities leave out the other raced prompts, since only those that did not lose have metrics.
    """
    scored = [prompt for prompt in candidates if prompt.metrics is not None]
    passed = [prompt for prompt in scored if prompt.survived]
    eliminated = sum(prompt.eliminated for prompt in candidates)
    evaluated = len(scored) + eliminated
    typical = [prompt for prompt in scored if prompt.audited is not False] if race_audit else scored
    intensity = _selection_intensity(*(metric_values(some)[:, : len(RIP_METRICS)] for some in (typical, passed)))
    measured = [prompt for prompt in typical if prompt.fitness.valid]
    fresh = sum(draw.n_drawn for prompt in candidates for draw in prompt.fresh)
    means = statistics.compile(measured)["mean"].tolist() if measured else [None] * len(_FITNESS)
    return {
        "generation": number,
        "tau_m1": thresholds.min_reward,
        "tau_m2": thresholds.min_length,
        "tau_m3": thresholds.max_gap,
        "evaluated": evaluated,
        "stopped": eliminated,
        "passed": len(passed),
        "pass_rate": len(passed) / evaluated if evaluated else None,
        **{f"selection_intensity_{name}": value for name, value in zip(RIP_METRICS, intensity, strict=True)},
        "rollouts": sum(prompt.spent["rollout"].requests for prompt in candidates) - fresh,
        "rollouts_confirm": fresh,
        "tokens": sum(prompt.spent.total.tokens for prompt in candidates),
        **{f"mean_{name}": mean for name, mean in zip(_FITNESS, means, strict=True)},
        "audited": _audited(candidates) if race_audit else None,
    }


def _audited(candidates: Sequence[Prompt]) -> int | None:
    """Counts the prompts that were sampled fully though raced; None if none of the candidates was raced."""
    raced = [prompt for prompt in candidates if prompt.audited is not None]
    return sum(prompt.audited is True for prompt in raced) if raced else None
