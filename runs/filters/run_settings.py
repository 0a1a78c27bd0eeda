"""Takes from a run's own selection what a filter of that run leaves unsaid, so that it repeats the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from fittest.evo.records import MetricName
from fittest.runs.config.file import load_config
from fittest.runs.config.selection import AbsoluteSection, PilotSection, SelectionSection
from fittest.runs.filters.cuts import Cuts
from fittest.runs.filters.scoring import Scoring
from fittest.runs.sources.run_responses import holds_run


@dataclass(frozen=True)
class RunSettings:
    """Says how a run selects its prompts.

    Attributes:
        folder: the run's folder.
        section: the run's [selection].
        seed: the run's seed.
        by_cuts: whether cuts decide in the run who survives.
    """

    folder: Path
    section: SelectionSection
    seed: int
    by_cuts: bool

    @property
    def scoring(self) -> Scoring:
        """Returns how responses become metrics in the run."""
        return Scoring(length_unit=self.section.length_unit, pairing=self.section.pairing, seed=self.seed)

    @property
    def pilot(self) -> float:
        """Returns the share of the pool that the run fitted its cuts to; 0 for all of it."""
        return self.section.pilot if isinstance(self.section, PilotSection) else 0.0

    def completed(self, cuts: Cuts, generations: Sequence[int]) -> Cuts:
        """Returns cuts in which what was not stated is as in the run; other cuts than by quantile are complete.

        Args:
            cuts: what was stated.
            generations: those that are filtered; offspring alone may be cut by other metrics than the pool.
        """
        section = self.section
        stated = (cuts.min_reward, cuts.min_length, cuts.max_gap, cuts.thresholds)
        if cuts.percentiles or any(cut is not None for cut in stated):
            return cuts
        metrics = section.offspring_metrics if 0 not in generations else None
        if cuts == Cuts():
            cuts = replace(cuts, at_least=section.at_least, at_most=section.at_most)
        if cuts.quantile is None and cuts.metrics is None:
            if isinstance(section, AbsoluteSection):
                return self._absolute(section, cuts)
            if ranges := self._percentiles(metrics or section.metrics):
                return replace(cuts, percentiles=ranges)
        return replace(
            cuts,
            quantile=section.quantile if cuts.quantile is None else cuts.quantile,
            metrics=(metrics or section.metrics) if cuts.metrics is None else cuts.metrics,
        )

    def _absolute(self, section: AbsoluteSection, cuts: Cuts) -> Cuts:
        if section.thresholds is not None:
            return replace(cuts, thresholds=section.thresholds)
        return replace(cuts, min_reward=section.min_reward, min_length=section.min_length, max_gap=section.max_gap)

    def _percentiles(self, metrics: Sequence[MetricName]) -> dict[MetricName, tuple[float, float]]:
        """Returns the surviving percentiles of each metric, if the run names any; the others are cut at a quantile."""
        named = getattr(self.section, "percentiles", None)
        if not named or self.section.levels is None:
            return {}
        levels = {name: self.section.levels[name] for name in metrics}
        return {
            name: named[name]
            if name in named
            else (_percent(0.0 if ends.low is None else ends.low), _percent(1.0 if ends.high is None else ends.high))
            for name, ends in levels.items()
        }


def _percent(level: float) -> float:
    # by way of decimals, so that dividing by 100 gives the level again to the last bit
    return float(Decimal(repr(level)) * 100)


def settings_of(sources: Sequence[Path]) -> RunSettings | None:
    """Returns the settings of the one run among the sources; None for several sources, and for a table."""
    if len(sources) != 1 or not holds_run(sources[0]):
        return None
    config = load_config(sources[0] / "run.toml")
    section = config.selection
    by_rank = section.BY_RANK or config.run.arm == "best-of-n"
    return RunSettings(sources[0], section, config.run.seed, by_cuts=not by_rank)
