"""Computes how busy the engine of a run was, what was spent on which prompts, and how much of that was wasted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fittest.evo.spending import Ledger, Spending

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution
    from fittest.evo.feeder import Feeder
    from fittest.evo.lanes import Lane
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Role, Stage
    from fittest.evo.spending import PriceList
    from fittest.evo.state import Generation
    from fittest.runs.output.journal import LogEnd, SqliteJournal


def idle_fraction(changes: Iterable[tuple[int, float, int]], slots: int) -> float | None:
    """Returns the share of slot time in which no request ran, from first submission to last completion by session.

    A request that was in flight when its session ended counts as running until that session's last completion.

    Args:
        changes: the changes of the number in flight as (session, seconds, +1 or −1), ordered by session and time.
        slots: how many requests the engine works on at once.

    Returns:
        1 − mean(min(in flight, slots)) / slots, or None if nothing was sent.
    """
    clock = _Clock(slots)
    clock.take(changes)
    return clock.idle_fraction


class IdleFractions:
    """Tells how idle each engine of a run was; what was read of the journal's logs is not read again.

    Args:
        journal: it logs requests and replies.
    """

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal
        self._clocks: dict[tuple[Stage, ...], tuple[_Clock, LogEnd | None]] = {}

    def of(self, lane: Lane) -> float | None:
        """Returns the idle share of the engine behind a lane, as `idle_fraction` does of all that is logged."""
        stages, end = tuple(lane.stages), self._journal.log_end()
        clock, before = self._clocks.get(stages, (_Clock(lane.slots), None))
        if before is None or end is None or before.forgotten != end.forgotten or clock.slots != lane.slots:
            clock, before = _Clock(lane.slots), None
        clock.take(self._journal.in_flight_changes(stages, after=before))
        self._clocks[stages] = clock, end
        return clock.idle_fraction


class _Clock:
    """Adds up how busy an engine was, and goes on from there when later changes are known.

    Args:
        slots: how many requests the engine works on at once.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._busy = self._total = 0.0
        self._begin(session=None)

    def _begin(self, session: int | None) -> None:
        # each session's clock starts at zero, and the time between two is nobody's idle time
        self._session, self._in_flight, self._previous = session, 0, 0.0
        self._pending_busy = self._pending_total = 0.0

    def take(self, changes: Iterable[tuple[int, float, int]]) -> None:
        """Takes in changes as `idle_fraction` does, none of which is earlier than those that it has taken."""
        for session, at, change in changes:
            if session != self._session:
                self._begin(session)
                self._previous = at
            self._pending_total += at - self._previous
            self._pending_busy += (at - self._previous) * min(self._in_flight, self.slots)
            # time counts only up to a completion: a session that was killed has no record of its end
            if change < 0:
                self._busy, self._total = self._busy + self._pending_busy, self._total + self._pending_total
                self._pending_busy = self._pending_total = 0.0
            self._in_flight += change
            self._previous = at

    @property
    def idle_fraction(self) -> float | None:
        """Holds the share of idle slot time so far; None if nothing was sent."""
        return 1.0 - self._busy / (self.slots * self._total) if self._total else None


class Spendings:
    """Makes the content of spending.json; each finished generation is counted once.

    Args:
        prices: the prices of tokens and of engine time.
        idle: tells how idle each engine was.
        anew: count all generations each time, since their prompts may be charged with more later on.
    """

    def __init__(self, prices: PriceList, idle: IdleFractions, *, anew: bool) -> None:
        self._prices = prices
        self._idle = idle
        self._anew = anew
        self._costs: _Costs | None = None
        self._rows: list[dict[str, Any]] = []
        self._counted = 0

    def report(self, evolution: Evolution) -> dict[str, Any]:
        """Returns the cost in all, of each engine, and of each operator of each generation.

        Slot seconds are the times of all requests added up. The price of engine time is divided in proportion to them;
        `total` and `engines` also include the time of idle slots. Without prices, `cost` is None.

        Args:
            evolution: the run, whose feeder knows its traffic.
        """
        feeder = evolution.feeder
        costs = _Costs(self._prices, {role: lane.slots for lane in feeder.lanes for role in lane.roles})
        self._count(evolution.state.finished, costs)
        rows = self._rows + [
            {"generation": generation, "operator": name, **_on_no_prompt(ledger, costs)}
            for (generation, name), ledger in sorted(evolution.state.other_spending.items())
        ]
        wasted = {name: sum(row[name] for row in rows) for name in ("tokens_gated", "tokens_rejected")}
        # an engine is paid for the whole time of the run, however many of its slots were busy
        total = _figures(feeder.traffic.total, costs.of_run(feeder.traffic, feeder.seconds))
        engines = [_engine(lane, feeder, self._prices, self._idle.of(lane)) for lane in feeder.lanes]
        return {"total": {**total, **wasted}, "engines": engines, "operators": rows}

    def _count(self, finished: Sequence[Generation], costs: _Costs) -> None:
        # the cost of a row is that of slots, of which there are fewer when a server is lost
        if self._anew or costs != self._costs:
            self._costs, self._rows, self._counted = costs, [], 0
        for generation in finished[self._counted :]:
            families: dict[str, list[Prompt]] = {}
            for prompt in generation.candidates:
                families.setdefault(prompt.birth.operator, []).append(prompt)
            self._rows += [
                {"generation": generation.number, "operator": operator, **_family(prompts, costs)}
                for operator, prompts in sorted(families.items())
            ]
        self._counted = len(finished)


@dataclass(frozen=True)
class _Costs:
    """Computes what ledgers cost.

    Attributes:
        prices: the prices of each engine.
        slots: the number of slots of the engine that serves each role.
    """

    prices: PriceList
    slots: Mapping[Role, int]

    def of_run(self, spent: Ledger, seconds: float) -> float | None:
        """Returns the cost of a run that took these seconds."""
        return self._if_known(self.prices.of_tokens(spent) + self.prices.of_time(seconds))

    def of_share(self, spent: Ledger) -> float | None:
        """Returns the cost of some requests: their tokens, and the time of the slots that they took."""
        times = (
            self.prices.of(role).of_time(spent.of_role(role).seconds / slots) for role, slots in self.slots.items()
        )
        return self._if_known(self.prices.of_tokens(spent) + sum(times))

    def _if_known(self, cost: float) -> float | None:
        return round(cost, 6) if self.prices.known else None


def _engine(lane: Lane, feeder: Feeder, prices: PriceList, idle_fraction: float | None) -> dict[str, Any]:
    """Returns the row of one engine; its idle time is that between its own first request and last reply."""
    spent = sum((feeder.traffic.of_role(role) for role in lane.roles), Spending())
    own = prices.of(lane.roles[0])
    cost = own.of_tokens(spent) + own.of_time(feeder.seconds)
    return {
        "roles": list(lane.roles),
        "engine": lane.backend.fingerprint,
        "slots": lane.slots,
        **_figures(spent, round(cost, 6) if prices.known else None),
        "idle_fraction": idle_fraction,
    }


def _family(prompts: Sequence[Prompt], costs: _Costs) -> dict[str, Any]:
    """Returns what the candidates of one operator in one generation have cost."""
    ledgers = [prompt.spent for prompt in prompts]
    gated = [prompt for prompt in prompts if prompt.gate is not None]
    rejected = [prompt for prompt in prompts if prompt.gate is None and not prompt.survived]
    return {
        "candidates": len(prompts),
        "gated": len(gated),
        "rejected": len(rejected),
        "survived": len(prompts) - len(gated) - len(rejected),
        **_by_stage(ledgers, costs),
        "tokens_gated": sum(prompt.spent.total.tokens for prompt in gated),
        "tokens_rejected": sum(prompt.spent.total.tokens for prompt in rejected),
    }


def _on_no_prompt(ledger: Ledger, costs: _Costs) -> dict[str, Any]:
    """Returns a row for spending that belongs to no candidate, such as making the pairs that train the judge."""
    return {**_family([], costs), **_by_stage([ledger], costs)}


def _by_stage(ledgers: Sequence[Ledger], costs: _Costs) -> dict[str, Any]:
    spent = sum(ledgers, Ledger())
    return {
        **_figures(spent.total, costs.of_share(spent)),
        "tokens_proposing": spent["proposal"].tokens,
        "tokens_answering": spent["rollout"].tokens,
        "tokens_judging": sum(spent[stage].tokens for stage in ("judge", "reference", "audit")),
    }


def _figures(spent: Spending, cost: float | None) -> dict[str, Any]:
    """Returns spending as figures."""
    return {
        "requests": spent.requests,
        "prompt_tokens": spent.prompt_tokens,
        "cached_tokens": spent.cached_tokens,
        "completion_tokens": spent.completion_tokens,
        "slot_seconds": round(spent.seconds, 3),
        "cost": cost,
    }
