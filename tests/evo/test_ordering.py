"""Milestones come as they may the first time, and in the same order ever after."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.ordering import MilestoneOrder, at_once
from fittest.evo.records import Milestone
from fittest.runs.output.journal import SqliteJournal


def lives(order_kept: MilestoneOrder, count: int, seed: int, *, until: int | None = None) -> list[Milestone]:
    """Let lives pass their milestones, each after waits drawn from the seed, and return the order that came of it."""
    rng, order = random.Random(seed), list[Milestone]()

    async def live(number: int) -> None:
        for event in ("born", "gated", "joined"):
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            async with order_kept.take(Milestone(event, number)):  # type: ignore[arg-type]
                await asyncio.sleep(0)
                order.append(Milestone(event, number))  # type: ignore[arg-type]
                if len(order) == until:
                    raise InterruptedError

    async def body() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(live(number))

    try:
        asyncio.run(body())
    except* InterruptedError:
        pass
    return order


@given(st.integers(1, 6), st.integers(0, 999), st.integers(0, 999))
def test_an_order_that_was_journalled_is_repeated_whatever_the_clock_does(count: int, seed: int, other: int) -> None:
    journal = SqliteJournal(":memory:")
    order = lives(MilestoneOrder(journal), count, seed)
    assert journal.milestones() == order
    assert lives(MilestoneOrder(journal), count, other) == order
    assert journal.milestones() == order


@given(st.integers(2, 6), st.integers(0, 999), st.integers(0, 999), st.integers(1, 5))
def test_what_was_begun_is_kept_to_and_the_rest_comes_as_it_may(count: int, seed: int, other: int, until: int) -> None:
    journal = SqliteJournal(":memory:")
    begun = lives(MilestoneOrder(journal), count, seed, until=until)
    whole = lives(MilestoneOrder(journal), count, other)
    assert whole[:until] == begun
    assert sorted(whole) == sorted(Milestone(event, n) for event in ("born", "gated", "joined") for n in range(count))  # type: ignore[arg-type]
    assert journal.milestones() == whole


def test_the_order_of_another_run_can_be_repeated() -> None:
    order = lives(MilestoneOrder(SqliteJournal(":memory:")), 4, seed=1)
    journal = SqliteJournal(":memory:")
    assert lives(MilestoneOrder(journal, recorded=order), 4, seed=2) == order
    assert journal.milestones() == order


def test_one_milestone_is_taken_at_a_time() -> None:
    inside = 0

    async def body() -> None:
        order_kept = MilestoneOrder(SqliteJournal(":memory:"))

        async def take(number: int) -> None:
            nonlocal inside
            async with order_kept.take(Milestone("born", number)):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1

        async with asyncio.TaskGroup() as tasks:
            for number in range(9):
                tasks.create_task(take(number))

    asyncio.run(body())
    assert inside == 0


def test_after_an_error_nobody_else_is_let_in() -> None:
    async def body() -> None:
        order_kept = MilestoneOrder(SqliteJournal(":memory:"))
        with pytest.raises(ZeroDivisionError):
            async with order_kept.take(Milestone("born", 0)):
                raise ZeroDivisionError
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), order_kept.take(Milestone("born", 1)):
                pytest.fail("the run is over")

    asyncio.run(body())


def test_work_is_begun_in_order_and_so_much_of_it_at_a_time() -> None:
    begun, running, most = list[int](), 0, 0

    async def work(item: int) -> None:
        nonlocal running, most
        begun.append(item)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (item % 3))
        running -= 1

    asyncio.run(at_once(work, iter(range(20)), at_most=4))
    assert begun == list(range(20))
    assert (running, most) == (0, 4)


def test_an_error_ends_the_work_and_nothing_more_is_begun() -> None:
    begun = list[int]()

    async def work(item: int) -> None:
        begun.append(item)
        await asyncio.sleep(0)
        if item == 3:
            raise InterruptedError

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(at_once(work, range(100), at_most=2))
    assert caught.group_contains(InterruptedError)
    assert len(begun) < 10
