"""What shapes a run, and what it has reached: the values that the loop, and whoever watches it, share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fittest.evo.failed import FailedFront
from fittest.evo.lineup import Lineup
from fittest.evo.records import RIP_METRICS, MetricName, Thresholds
from fittest.evo.spending import Ledger

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.retest import Retested


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a run, and the metrics that count in it.

    Attributes:
        generations: generations of offspring; the pool is generation 0.
        offspring: slots of a generation, each of which gives one candidate.
        population: the most parents that are kept; 0 sets no bound.
        metrics: those that count for the pool.
        offspring_metrics: those that count for offspring.
        confirm: how many fresh draws a prompt has to pass as well.
        retest: the share of survivors that get one more draw at the end.
        seed: the seed of the run, which chooses them.
        race_audit: the share of raced offspring that are sampled fully all the same; means are over these alone.
        target_survivors: the run ends once so many prompts have survived; 0 sets no goal.
        pilot: slots of the pool that are sampled fully, and fit the cuts, before the rest of the pool is raced.
    """

    generations: int
    offspring: int
    population: int = 0
    metrics: tuple[MetricName, ...] = RIP_METRICS
    offspring_metrics: tuple[MetricName, ...] = RIP_METRICS
    confirm: int = 0
    retest: float = 0.0
    seed: int = 0
    race_audit: float = 0.0
    target_survivors: int = 0
    pilot: frozenset[int] = frozenset()

    def metrics_of(self, generation: int) -> tuple[MetricName, ...]:
        """Returns the metrics that count in a generation."""
        return self.offspring_metrics if generation else self.metrics


@dataclass(frozen=True)
class Generation:
    """One finished generation: all its candidates in slot order, its cuts and its line of the logbook."""

    number: int
    candidates: Sequence[Prompt]
    thresholds: Thresholds
    record: dict[str, Any]


@dataclass
class State:
    """What a run has reached.

    Attributes:
        generation: the one that is under way.
        phase: what is being done, in words for whoever watches.
        proposed: candidates of this generation that the gates have decided about.
        evaluated: candidates of this generation that have been evaluated.
        sampled_in_all: prompts that responses were drawn for, in all generations.
        drawn_in_all: the responses of their first draws.
        confirming: what fresh draws have cost that decide about survival.
        unconfirmed: the prompts that passed their first draw, and whose fresh draws are not over.
        retested: the survivors that were drawn again when all generations were over; None before that, and without a
            re-test.
        population: the parents, trimmed to their number.
        scored: every prompt that ever had a valid fitness.
        eliminated: every prompt that lost a race.
        survivors: every prompt that ever passed rejection.
        failed: the best of those that were scored and did not pass.
        other_spending: what was spent on something else than a candidate, such as on pairs that a judge is trained
            with. A key holds the generation before which it was spent, and the name of what it was spent on.
        notes: what a reader of the tables should know about this run.
        finished: the generations that are over.
        revisions: how often it has changed who is bred from, other than by prompts that came.
        stop_reason: why the run ended; None while it goes on.
    """

    generation: int = 0
    phase: str = "starting"
    proposed: int = 0
    evaluated: int = 0
    sampled_in_all: int = 0
    drawn_in_all: int = 0
    confirming: Ledger = field(default_factory=Ledger)
    unconfirmed: set[Prompt] = field(default_factory=set)
    retested: list[Retested] | None = None
    population: list[Prompt] = field(default_factory=list)
    scored: list[Prompt] = field(default_factory=list)
    eliminated: list[Prompt] = field(default_factory=list)
    survivors: list[Prompt] = field(default_factory=list)
    failed: FailedFront = field(default_factory=FailedFront, repr=False)
    other_spending: dict[tuple[int, str], Ledger] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    finished: list[Generation] = field(default_factory=list)
    revisions: int = 0
    stop_reason: str | None = None
    _lineups: dict[tuple[Callable[[Prompt], bool], tuple[str, ...]], Lineup] = field(default_factory=dict, repr=False)

    def by_id(self, *names: Literal["population", "scored", "eliminated"], wanted: Callable[[Prompt], bool]) -> Lineup:
        """Returns the wanted prompts of some of its lists, sorted by id; each of them is looked at once.

        What is returned is brought up to date by the next call, so a draw shall be done with it before.

        Args:
            *names: the lists.
            wanted: tells whether a prompt is wanted; a function of a module, which is the same at each call.
        """
        lineup = self._lineups.setdefault((wanted, names), Lineup(wanted))
        return lineup.follow(*(getattr(self, name) for name in names))

    def look_again(self) -> None:
        """Forgets which prompts were wanted, because that has changed."""
        self.revisions += 1
        self._lineups.clear()
        self.failed.forget()

    def begin(self, generation: int) -> None:
        """Enters a generation, none of whose candidates is born yet."""
        self.generation, self.phase = generation, "sampling"
        self.proposed = self.evaluated = 0
