"""Spending is charged to whoever asks, priced by the table, and capped."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.backends.null import Null
from fittest.evo.feeder import Feeder
from fittest.evo.records import Completion, Failure
from fittest.evo.spending import Budget, Ledger, PriceList, Prices, Spending, charged_to
from fittest.runs.output.journal import SqliteJournal
from tests.scripted_engine import request

counts = st.integers(0, 10**6)
spendings = st.builds(Spending, counts, counts, st.just(0), counts, st.floats(0, 1e6))


def test_a_reply_is_counted_by_stage_and_a_failure_as_a_request_alone() -> None:
    ledger = Ledger()
    ledger["rollout"].count(Completion("x", "stop", 10, 4, cached_tokens=6, seconds=2.0))
    ledger["rollout"].count(Failure("too long"))
    ledger["judge"].count(Completion("x", "stop", 3, 1, seconds=0.5))
    assert ledger["rollout"] == Spending(2, 10, 6, 4, 2.0)
    assert ledger.total == Spending(3, 13, 6, 5, 2.5)
    assert ledger.total.tokens == 18


def test_requests_are_charged_to_the_account_they_were_asked_on_however_they_interleave() -> None:
    async def body() -> tuple[list[Ledger], Ledger]:
        ledgers = [Ledger() for _ in range(3)]
        async with Feeder(Null(slots=4), SqliteJournal(":memory:")) as feeder:

            async def ask(number: int) -> None:
                with charged_to(ledgers[number]):
                    await feeder.ask_all([request(100 * number + i) for i in range(number + 1)])
                    async with asyncio.TaskGroup() as deeper:
                        deeper.create_task(feeder.ask_all([request(100 * number + 50, "judge")]))

            async with asyncio.TaskGroup() as tasks:
                for number in range(3):
                    tasks.create_task(ask(number))
            await feeder.ask_all([request(999)])
        return ledgers, feeder.traffic

    ledgers, traffic = asyncio.run(body())
    assert [ledger["rollout"].requests for ledger in ledgers] == [1, 2, 3]
    assert [ledger["judge"].requests for ledger in ledgers] == [1, 1, 1]
    assert traffic.total.requests == 6 + 3 + 1


def test_what_comes_from_the_journal_is_charged_as_it_was_when_it_was_new() -> None:
    journal = SqliteJournal(":memory:")

    async def asked() -> Ledger:
        ledger = Ledger()
        async with Feeder(Null(slots=2, latency=0.001), journal) as feeder:
            with charged_to(ledger):
                await feeder.ask_all([request(i) for i in range(5)])
        return ledger

    first, again = asyncio.run(asked()), asyncio.run(asked())
    assert first.total == again.total
    assert first.total.seconds > 0


def test_prices_are_for_a_million_tokens_and_an_hour() -> None:
    prices = Prices(prompt_tokens=2.0, cached_tokens=0.5, completion_tokens=8.0, engine_hour=3.0)
    spent = Spending(1, prompt_tokens=1_000_000, cached_tokens=400_000, completion_tokens=500_000)
    assert prices.of_tokens(spent) == pytest.approx(0.6 * 2.0 + 0.4 * 0.5 + 0.5 * 8.0)
    assert prices.of_time(1800.0) == pytest.approx(1.5)


@given(spendings, spendings)
def test_the_cost_of_two_is_the_sum_of_their_costs(one: Spending, other: Spending) -> None:
    prices = Prices(prompt_tokens=0.15, completion_tokens=0.6)
    together = prices.of_tokens(one + other)
    assert together == pytest.approx(prices.of_tokens(one) + prices.of_tokens(other))


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        (Budget(max_tokens=100), "max_tokens"),
        (Budget(max_seconds=60.0), "max_seconds"),
        (Budget(max_cost=1.0, prices=PriceList(Prices(completion_tokens=10_000.0))), "max_cost"),
        (Budget(max_cost=1.0, prices=PriceList(Prices(engine_hour=60.0))), "max_cost"),
        (Budget(), None),
    ],
)
def test_each_cap_is_named_once_it_is_reached(budget: Budget, cap: str | None) -> None:
    spent = Ledger()
    spent.add("rollout", Spending(9, 0, 0, 99))
    assert budget.reached(spent, 59.0) is None
    spent.add("judge", Spending(0, 0, 0, 1))
    assert budget.reached(spent, 60.0) == cap
