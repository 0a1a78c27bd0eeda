"""Caps stop the feeder within a round of requests, whatever earlier sessions were answered."""

from __future__ import annotations

import asyncio

import pytest

from fittest.evo.feeder import EndRun, Feeder
from fittest.evo.records import Completion, Request
from fittest.evo.spending import Budget
from fittest.runs.output.journal import SqliteJournal
from tests.scripted_engine import Scripted, echo, request


def test_a_token_cap_stops_within_the_requests_in_flight() -> None:
    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:"), budget=Budget(max_tokens=40)) as feeder:
            await feeder.ask_all([request(i) for i in range(100)])

    engine = Scripted(echo, slots=2)
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_tokens")
    assert 5 <= len(engine.asked) <= 5 + 2


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_no_more_requests_are_sent_than_the_cap_allows(slots: int) -> None:
    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:"), budget=Budget(max_requests=10)) as feeder:
            await feeder.ask_all([request(i) for i in range(100)])

    engine = Scripted(echo, slots=slots)
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_requests")
    assert len(engine.asked) == 10


def test_work_that_ends_at_the_cap_is_not_stopped() -> None:
    async def body() -> int:
        async with Feeder(Scripted(echo), SqliteJournal(":memory:"), budget=Budget(max_requests=10)) as feeder:
            return len(await feeder.ask_all([request(i) for i in range(10)]))

    assert asyncio.run(body()) == 10


def test_a_cap_waits_for_what_is_in_flight_however_long_it_takes() -> None:
    journal = SqliteJournal(":memory:")

    async def slow(asked: Request) -> str:
        await asyncio.sleep(0.1 * (asked.seed + 1))
        return "x"

    async def body() -> None:
        async with Feeder(
            Scripted(slow, slots=3), journal, budget=Budget(max_tokens=8), drain_seconds=0.001
        ) as feeder:
            await feeder.ask_all([request(i) for i in range(9)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_tokens")
    assert journal.spent().total.requests == 3


def test_a_cap_on_time_is_looked_at_although_nothing_arrives() -> None:
    async def slow(asked: Request) -> str:
        await asyncio.sleep(0.5)
        return "x"

    engine = Scripted(slow, slots=1)

    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:"), budget=Budget(max_seconds=0.05)) as feeder:
            asyncio.get_running_loop().call_later(0.25, lambda: told.append(feeder.ending))
            await feeder.ask_all([request(i) for i in range(3)])

    told: list[str | None] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_seconds")
    assert told == ["max_seconds"]
    assert len(engine.asked) == 1


def test_what_earlier_sessions_were_answered_counts_before_it_is_asked_for_again() -> None:
    journal, engine = SqliteJournal(":memory:"), Scripted(echo)
    journal.exchange([(f"lost {i}", 0, Completion("x", "stop", 3, 5)) for i in range(7)], [])

    async def body() -> None:
        async with Feeder(engine, journal, budget=Budget(max_requests=10)) as feeder:
            await feeder.ask_all([request(i) for i in range(9)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_requests")
    assert len(engine.asked) == 3
