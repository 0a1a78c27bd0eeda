"""Computes how busy the engine of a run was, what was spent on which prompts, and how much of that was wasted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fittest.evo.spending import Ledger, Spending

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution
    from fittest.evo.feeder import Feeder
    from fittest.evo.lanes import Lane
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Role, Stage
    from fittest.evo.spending import PriceList


def idle_fraction(changes: Iterable[tuple[int, float, int]], slots: int) -> float | None:
    """Returns the share of slot time in which no request ran, from first submission to last completion by session.

    A request that was in flight when its session ended counts as running until that session's last completion.

    Args:
        changes: the changes of the number in flight as (session, seconds, +1 or −1), ordered by session and time.
        slots: how many requests the engine works on at once.

    Returns:
        1 − mean(min(in flight, slots)) / slots, or None if nothing was sent.
    """
    busy = total = 0.0
    # session by session: each one's clock starts at zero, and the time between two is nobody's idle time
    for _, events in groupby(changes, key=lambda change: change[0]):
        in_flight, previous = 0, None
        pending_busy = pending_total = 0.0
        for _, at, change in events:
            if previous is not None:
                pending_total += at - previous
                pending_busy += (at - previous) * min(in_flight, slots)
            # time counts only up to a completion: a session that was killed has no record of its end
            if change < 0:
                busy, total = busy + pending_busy, total + pending_total
                pending_busy = pending_total = 0.0
            in_flight += change
            previous = at
    return 1.0 - busy / (slots * total) if total else None


def spending_report(
    evolution: Evolution, prices: PriceList, changes: Callable[[Collection[Stage]], Iterable[tuple[int, float, int]]]
) -> dict[str, Any]:
    """Returns the content of spending.json: the cost in all, of each engine, and of each operator of each generation.

    Slot seconds are the times of all requests added up. The price of engine time is divided in proportion to them;
    `total` and `engines` also include the time of idle slots. Without prices, `cost` is None.

    Args:
        evolution: the run, whose feeder knows its traffic.
        prices: the prices of tokens and of engine time.
        changes: gives the changes of the number in flight of some stages, as `idle_fraction` takes them.
    """
    feeder = evolution.feeder
    costs = _Costs(prices, {role: lane.slots for lane in feeder.lanes for role in lane.roles})
    families: dict[tuple[int, str], list[Prompt]] = {}
    for generation in evolution.state.finished:
        for prompt in generation.candidates:
            families.setdefault((generation.number, prompt.birth.operator), []).append(prompt)
    rows = [
        {"generation": generation, "operator": operator, **_family(prompts, costs)}
        for (generation, operator), prompts in sorted(families.items())
    ] + [
        {"generation": generation, "operator": name, **_on_no_prompt(ledger, costs)}
        for (generation, name), ledger in sorted(evolution.state.other_spending.items())
    ]
    wasted = {name: sum(row[name] for row in rows) for name in ("tokens_gated", "tokens_rejected")}
    # an engine is paid for the whole time of the run, however many of its slots were busy
    total = _figures(feeder.traffic.total, costs.of_run(feeder.traffic, feeder.seconds))
    engines = [_engine(lane, feeder, prices, changes) for lane in feeder.lanes]
    return {"total": {**total, **wasted}, "engines": engines, "operators": rows}


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


def _engine(
    lane: Lane,
    feeder: Feeder,
    prices: PriceList,
    changes: Callable[[Collection[Stage]], Iterable[tuple[int, float, int]]],
) -> dict[str, Any]:
    """Returns the row of one engine; its idle time is that between its own first request and last reply."""
    spent = sum((feeder.traffic.of_role(role) for role in lane.roles), Spending())
    own = prices.of(lane.roles[0])
    cost = own.of_tokens(spent) + own.of_time(feeder.seconds)
    return {
        "roles": list(lane.roles),
        "engine": lane.backend.fingerprint,
        "slots": lane.slots,
        **_figures(spent, round(cost, 6) if prices.known else None),
        "idle_fraction": idle_fraction(changes(lane.stages), lane.slots),
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
        "tokens_judging": spent["judge"].tokens + spent["reference"].tokens,
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
