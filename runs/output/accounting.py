"""Computes how busy the engine of a run was, what was spent on which prompts, and how much of that was wasted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fittest.evo.spending import Prices, Spending

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution
    from fittest.evo.prompt import Prompt
    from fittest.evo.spending import Ledger


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


def spending_report(evolution: Evolution, prices: Prices) -> dict[str, Any]:
    """Returns the content of spending.json: the cost in all, and for each operator of each finished generation.

    Slot seconds are the times of all requests added up. The price of engine time is divided in proportion to them;
    `total` also includes the time of idle slots. Without prices, `cost` is None.

    Args:
        evolution: the run, whose feeder knows its traffic.
        prices: the prices of tokens and of engine time.
    """
    slots, feeder = evolution.feeder.backend.slots, evolution.feeder
    # the engine is paid for the whole time of the run, however many of its slots were busy
    total = _figures(feeder.traffic.total, prices, seconds=feeder.seconds)
    families: dict[tuple[int, str], list[Prompt]] = {}
    for generation in evolution.state.finished:
        for prompt in generation.candidates:
            families.setdefault((generation.number, prompt.birth.operator), []).append(prompt)
    rows = [
        {"generation": generation, "operator": operator, **_family(prompts, prices, slots)}
        for (generation, operator), prompts in sorted(families.items())
    ] + [
        {"generation": generation, "operator": name, **_on_no_prompt(ledger, prices, slots)}
        for (generation, name), ledger in sorted(evolution.state.other_spending.items())
    ]
    wasted = {name: sum(row[name] for row in rows) for name in ("tokens_gated", "tokens_rejected")}
    return {"total": {**total, **wasted}, "operators": rows}


def _family(prompts: Sequence[Prompt], prices: Prices, slots: int) -> dict[str, Any]:
    """Returns what the candidates of one operator in one generation have cost."""
    ledgers = [prompt.spent for prompt in prompts]
    gated = [prompt for prompt in prompts if prompt.gate is not None]
    rejected = [prompt for prompt in prompts if prompt.gate is None and not prompt.survived]
    return {
        "candidates": len(prompts),
        "gated": len(gated),
        "rejected": len(rejected),
        "survived": len(prompts) - len(gated) - len(rejected),
        **_by_stage(ledgers, prices, slots),
        "tokens_gated": sum(prompt.spent.total.tokens for prompt in gated),
        "tokens_rejected": sum(prompt.spent.total.tokens for prompt in rejected),
    }


def _on_no_prompt(ledger: Ledger, prices: Prices, slots: int) -> dict[str, Any]:
    """Returns a row for spending that belongs to no candidate, such as making the pairs that train the judge."""
    return {**_family([], prices, slots), **_by_stage([ledger], prices, slots)}


def _by_stage(ledgers: Sequence[Ledger], prices: Prices, slots: int) -> dict[str, Any]:
    spent = sum((ledger.total for ledger in ledgers), Spending())
    return {
        **_figures(spent, prices, seconds=spent.seconds / slots),
        "tokens_proposing": sum(ledger["proposal"].tokens for ledger in ledgers),
        "tokens_answering": sum(ledger["rollout"].tokens for ledger in ledgers),
        "tokens_judging": sum(ledger["judge"].tokens + ledger["reference"].tokens for ledger in ledgers),
    }


def _figures(spent: Spending, prices: Prices, *, seconds: float) -> dict[str, Any]:
    """Returns spending as figures; `seconds` is the time for which the whole engine is paid."""
    cost = prices.of_tokens(spent) + prices.of_time(seconds)
    return {
        "requests": spent.requests,
        "prompt_tokens": spent.prompt_tokens,
        "cached_tokens": spent.cached_tokens,
        "completion_tokens": spent.completion_tokens,
        "slot_seconds": round(spent.seconds, 3),
        "cost": round(cost, 6) if prices.known else None,
    }
