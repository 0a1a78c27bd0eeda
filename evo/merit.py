"""Merit: one number for what a prompt is worth, which knows how noisy its metrics are (docs/design/selection.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import METRICS, SMALL_IS_GOOD, MetricName, Metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt
    from fittest.evo.state import State

    Intraclass = Callable[[NDArray[np.float64]], float | None]

_FEWEST = 10
"""With fewer prompts, an intraclass correlation says next to nothing: of 10 that correlate by 0.3, a 95 % interval
reaches from below 0 to 0.75."""

_STEADIER: frozenset[MetricName] = frozenset({"m3", "average_reward", "reward_std"})
"""Twice as many responses make these metrics more reliable: there is half the luck in an average, and prompts differ
more in a gap the wider it is. The worst or best reward keeps nearly all of its luck, and m2 is the length of a single
response, so of these metrics a draw is taken to be as reliable as its halves."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Standardises one metric, so that more is better.

    Attributes:
        column: its place in `METRICS`.
        mean: of the population.
        per_unit: standard deviations for one unit, negative where less is better; 0 without any spread.
        reliability: the share of the variance of one draw that is no luck; None if it is not known.
    """

    column: int
    mean: float
    per_unit: float
    reliability: float | None

    def shrunk(self, draws: Sequence[Metrics]) -> float:
        """Returns the mean of the draws in standard deviations, shrunk towards the population by its reliability."""
        known = [value for draw in draws if np.isfinite(value := draw.values[self.column])]
        if not known:
            return 0.0
        share = 1.0 if self.reliability is None else stepped_up(self.reliability, len(known))
        return share * self.per_unit * (sum(known) / len(known) - self.mean)


class Merit:
    """Scores prompts by the metrics that count, each shrunk towards the population by its reliability.

    A metric of one draw is what the prompt is worth plus luck, and whoever is picked for the sum of both was mostly
    lucky. The best linear guess of what it is worth lies between what was drawn and the mean of the population, the
    nearer to the mean the more of the variance is luck (Kelley 1927; Efron and Morris 1975).

    The population is the pool, or the part of it that was drawn in full whatever came; those that a race spared were
    picked by their luck. A pool that is raced as a whole, against cuts of another run, says nothing: offspring that
    are drawn in full to audit the races stand for it. All is read at the end of a generation, and prompts that come
    meanwhile are scored by what was known then.

    Args:
        metrics: those that count.
        intraclass: returns the intraclass correlation of a table of shape (prompts, draws), or None if it has none.
        pilot: the slots of the pool that are drawn in full; without any, all of them may be.

    Attributes:
        reliability: the share of the variance of one draw that is no luck, of each metric; without any if one of
            them is not known.
        note: what a reader of the tables should know, if anything.
    """

    def __init__(
        self, metrics: Iterable[MetricName], intraclass: Intraclass, *, pilot: Collection[int] = frozenset()
    ) -> None:
        self.reliability: dict[MetricName, float] = {}
        self.note: str | None = None
        self._metrics = tuple(metrics)
        self._columns = [METRICS.index(name) for name in self._metrics]
        self._intraclass = intraclass
        self._pilot = pilot
        self._followed = 0
        self._pool: list[Prompt] = []
        self._audited: list[Prompt] = []
        self._survivors: list[Prompt] = []
        self._scales = [_Scale(column, 0.0, 0.0, None) for column in self._columns]
        self._known: dict[str, tuple[float, ...]] = {}

    def follow(self, state: State) -> None:
        """Takes in the generations that were finished since the last time.

        Args:
            state: what the run has reached; its notes say that a reliability is not known for as long as it is not.
        """
        if len(state.finished) == self._followed:
            return
        for generation in state.finished[self._followed :]:
            self._take(generation.candidates)
        self._followed = len(state.finished)
        self._known = {}
        before = self.note
        self._fit()
        if self.note != before:
            state.notes[:] = [*(note for note in state.notes if note != before), *([self.note] if self.note else [])]

    def _take(self, candidates: Sequence[Prompt]) -> None:
        self._survivors += [prompt for prompt in candidates if prompt.survived]
        for prompt in candidates:
            if prompt.metrics is not None and prompt.metrics.halves is not None:
                human = prompt.birth.generation == 0
                # whether the rest of the pool is raced or not, merit is the same
                if not human or not self._pilot or prompt.birth.slot in self._pilot:
                    (self._pool if human else self._audited).append(prompt)

    def score(self, prompt: Prompt) -> float:
        """Returns the merit of a prompt in standard deviations of one draw; 0 if nothing is known of it."""
        return sum(self._shrunk(prompt))

    def cases(self, prompts: Iterable[Prompt]) -> NDArray[np.float64]:
        """Returns the summands of each score, more of which is better, shape (prompts, metrics)."""
        known = self._known
        rows = [known.get(prompt.id) or known.setdefault(prompt.id, self._shrunk(prompt)) for prompt in prompts]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self._metrics))

    def _shrunk(self, prompt: Prompt) -> tuple[float, ...]:
        draws = full_draws(prompt)
        return tuple(scale.shrunk(draws) for scale in self._scales)

    def _fit(self) -> None:
        """Learns mean, spread and reliability of each metric."""
        drawn_in_full = self._pool if len(self._pool) >= _FEWEST else [*self._pool, *self._audited]
        whole = [prompt.metrics for prompt in drawn_in_full if prompt.metrics and prompt.metrics.halves]
        halves = np.array([metrics.halves for metrics in whole], dtype=np.float64).reshape(-1, 2, len(METRICS))
        values = _values(whole if len(whole) >= _FEWEST else [p.metrics for p in self._survivors if p.metrics])
        found = {name: self._reliability(name, halves[:, :, METRICS.index(name)]) for name in self._metrics}
        unknown = [name for name, reliability in found.items() if reliability is None]
        self.note = self._why_unknown(unknown, len(whole)) if unknown else None
        self.reliability = {} if unknown else {name: share for name, share in found.items() if share is not None}
        self._scales = [
            _scale(column, name, values[:, column], self.reliability.get(name))
            for column, name in zip(self._columns, self._metrics, strict=True)
        ]

    def _reliability(self, name: MetricName, halves: NDArray[np.float64]) -> float | None:
        """Returns the reliability of a full draw, of which the halves are given, shape (prompts, 2)."""
        halves = halves[np.isfinite(halves).all(axis=1)]
        if len(halves) < _FEWEST:
            return None
        correlation = self._intraclass(halves)
        return None if correlation is None else stepped_up(max(0.0, correlation), 2 if name in _STEADIER else 1)

    def _why_unknown(self, unknown: Sequence[MetricName], whole: int) -> str:
        why = f"only {whole} prompts were drawn in full whatever came and can be halved, {_FEWEST} are needed"
        if whole >= _FEWEST:
            why = "the halves of draws do not differ, or have too few rewards"
        return (
            f"parents are picked by metrics that are not shrunk: how much luck is in {', '.join(unknown)} is not"
            f" known ({why})"
        )


def full_draws(prompt: Prompt) -> Sequence[Metrics]:
    """Returns the metrics of each full draw that a prompt had."""
    fresh = [draw.metrics for draw in prompt.fresh]
    return [metrics for metrics in (prompt.metrics, *fresh) if metrics is not None]


def stepped_up(reliability: float, draws: int) -> float:
    """Returns the reliability of the mean of several draws from that of one (Spearman 1910; Brown 1910).

    Args:
        reliability: of one draw, in [0, 1].
        draws: their number.
    """
    return draws * reliability / (1.0 + (draws - 1) * reliability)


def _values(metrics: Sequence[Metrics]) -> NDArray[np.float64]:
    return np.array([each.values for each in metrics], dtype=np.float64).reshape(-1, len(METRICS))


def _scale(column: int, name: MetricName, values: NDArray[np.float64], reliability: float | None) -> _Scale:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else 0.0
    spread = float(known.std()) if len(known) else 0.0
    # what is less than rounding is no spread
    if spread <= 1e-12 * abs(mean):
        return _Scale(column, mean, 0.0, reliability)
    return _Scale(column, mean, (-1.0 if name in SMALL_IS_GOOD else 1.0) / spread, reliability)
