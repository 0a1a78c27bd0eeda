"""The feeder keeps slots full, journals before it answers, and stops in order."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
from fittest.evo.feeder import EndRun, Feeder
from fittest.evo.keys import request_key
from fittest.evo.records import Completion, Failure, Request
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.process import at_work
from tests.scripted_engine import Scripted, echo, request


def test_replies_come_in_the_order_of_the_requests() -> None:
    async def slow_first(asked: Request) -> str:
        await asyncio.sleep(0.02 if asked.seed == 0 else 0)
        return str(asked.seed)

    async def body() -> list[str]:
        async with Feeder(Scripted(slow_first), SqliteJournal(":memory:")) as feeder:
            replies = await feeder.ask_all([request(i) for i in range(9)])
        return [reply.text for reply in replies if isinstance(reply, Completion)]

    assert asyncio.run(body()) == [str(i) for i in range(9)]


def test_every_slot_is_used_and_never_more() -> None:
    async def busy(asked: Request) -> str:
        await asyncio.sleep(0.002)
        return "x"

    async def body() -> Scripted:
        engine = Scripted(busy, slots=5)
        async with Feeder(engine, SqliteJournal(":memory:")) as feeder:
            await feeder.ask_all([request(i) for i in range(40)])
        return engine

    assert asyncio.run(body()).most_running == 5


def test_what_the_journal_knows_is_not_asked() -> None:
    async def body() -> tuple[Scripted, list[object]]:
        engine, journal = Scripted(echo), SqliteJournal(":memory:")
        known = Completion("from before", "stop", 1, 1)
        journal.exchange([(request_key(engine.fingerprint, request(1)), 0, known)], [])
        async with Feeder(engine, journal) as feeder:
            replies = await feeder.ask_all([request(0), request(1)])
        return engine, list(replies)

    engine, replies = asyncio.run(body())
    assert [asked.seed for asked in engine.asked] == [0]
    assert replies[1] == Completion("from before", "stop", 1, 1)


def test_garbage_is_collected_rarely_while_a_run_is_at_work_and_as_before_after_it() -> None:
    before = gc.get_threshold()
    with at_work:
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_a_reply_is_in_the_journal_before_it_is_handed_out() -> None:
    journal = SqliteJournal(":memory:")
    engine = Scripted(echo)

    async def body() -> None:
        async with Feeder(engine, journal) as feeder:
            for i in range(5):
                (reply,) = await feeder.ask_all([request(i)])
                assert journal.reply(request_key(engine.fingerprint, request(i)), 0) == reply

    asyncio.run(body())


def test_a_request_that_can_never_succeed_is_answered_with_its_reason_and_remembered() -> None:
    async def refuse(asked: Request) -> str:
        raise RequestFailedError("too long")

    journal, engine = SqliteJournal(":memory:"), Scripted(refuse)

    async def body() -> list[object]:
        async with Feeder(engine, journal) as feeder:
            return [*await feeder.ask_all([request(0)]), *await feeder.ask_all([request(0)])]

    assert asyncio.run(body()) == [Failure("too long"), Failure("too long")]
    assert len(engine.asked) == 1


def test_a_lost_engine_ends_the_run_with_its_own_error() -> None:
    async def die(asked: Request) -> str:
        raise EngineLostError("gone")

    async def body() -> None:
        async with Feeder(Scripted(die), SqliteJournal(":memory:")) as feeder:
            await feeder.ask_all([request(0)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EngineLostError, match="gone")


def test_proposals_go_before_rollouts_and_judgments_after_them() -> None:
    async def body() -> list[str]:
        engine = Scripted(echo, slots=1)
        async with Feeder(engine, SqliteJournal(":memory:")) as feeder:
            await feeder.ask_all([request(8, "judge"), *(request(i) for i in range(3)), request(9, "proposal")])
        return [asked.stage for asked in engine.asked]

    assert asyncio.run(body()) == ["proposal", "rollout", "rollout", "rollout", "judge"]


def test_a_stop_keeps_what_is_in_flight_and_sends_nothing_more() -> None:
    journal = SqliteJournal(":memory:")

    async def slow(asked: Request) -> str:
        await asyncio.sleep(0.03)
        return "kept"

    engine = Scripted(slow, slots=2)

    async def body() -> None:
        async with Feeder(engine, journal) as feeder:
            asyncio.get_running_loop().call_later(0.01, feeder.interrupt)
            await feeder.ask_all([request(i) for i in range(6)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="interrupted")
    assert len(engine.asked) == 2
    assert all(journal.reply(request_key(engine.fingerprint, asked), 0) is not None for asked in engine.asked)


def test_a_stop_does_not_wait_for_ever() -> None:
    async def hang(asked: Request) -> str:
        await asyncio.sleep(60)
        return "never"

    async def body() -> None:
        async with Feeder(Scripted(hang), SqliteJournal(":memory:"), drain_seconds=0.05) as feeder:
            asyncio.get_running_loop().call_later(0.01, feeder.interrupt)
            await feeder.ask_all([request(0)])

    async def in_time() -> None:
        async with asyncio.timeout(5):
            await body()

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(in_time())
    assert caught.group_contains(EndRun)


def test_it_is_hungry_until_as_many_requests_wait_as_there_are_slots() -> None:
    async def body() -> list[int]:
        waiting = []
        async with Feeder(Scripted(echo, slots=3), SqliteJournal(":memory:")) as feeder, asyncio.TaskGroup() as asking:
            for i in range(20):
                await feeder.hungry()
                waiting.append(feeder.queued)
                asking.create_task(feeder.ask_all([request(2 * i), request(2 * i + 1)]))
                await asyncio.sleep(0)
        return waiting

    waiting = asyncio.run(body())
    assert len(waiting) == 20
    assert max(waiting) == 2


def test_a_request_that_is_asked_twice_is_sent_and_counted_once() -> None:
    journal, engine = SqliteJournal(":memory:"), Scripted(echo)

    async def body() -> Feeder:
        async with Feeder(engine, journal) as feeder, asyncio.TaskGroup() as asking:
            asking.create_task(feeder.ask_all([request(0), request(1), request(0)]))
            asking.create_task(feeder.ask_all([request(1), request(0)]))
            assert len({str(reply) for reply in await feeder.ask_all([request(0), request(0)])}) == 1
        return feeder

    feeder = asyncio.run(body())
    assert sorted(asked.seed for asked in engine.asked) == [0, 1]
    assert feeder.traffic.total.requests == feeder.fresh.total.requests == 2


def test_an_error_while_the_run_ends_by_another_does_not_hide_it() -> None:
    async def fail(asked: Request) -> str:
        await asyncio.sleep(0.02)
        raise EngineLostError("gone as well")

    async def body() -> None:
        async with Feeder(Scripted(fail), SqliteJournal(":memory:")) as feeder:
            waiting = asyncio.create_task(feeder.ask_all([request(0)]))
            await asyncio.sleep(0.005)
            waiting.cancel()
            raise ValueError("a reward failed")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(ValueError, match="a reward failed")


def test_replies_that_could_not_be_written_are_written_when_the_feeder_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal, exchange = SqliteJournal(":memory:"), SqliteJournal.exchange
    failures = [FittestError("database is locked")]

    def fails_once(self: SqliteJournal, replies: Any, requests: Any) -> None:
        if replies and failures:
            raise failures.pop()
        exchange(self, replies, requests)

    monkeypatch.setattr(SqliteJournal, "exchange", fails_once)

    async def body() -> None:
        async with Feeder(Scripted(echo), journal) as feeder:
            await feeder.ask_all([request(i) for i in range(3)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(FittestError, match="locked")
    assert journal.spent().total.requests == 3


def test_replies_in_flight_are_kept_when_somebody_elses_error_ends_the_run() -> None:
    journal = SqliteJournal(":memory:")

    async def slow(asked: Request) -> str:
        await asyncio.sleep(0.02)
        return "kept"

    engine = Scripted(slow, slots=3)

    async def body() -> None:
        async with Feeder(engine, journal) as feeder:
            waiting = asyncio.create_task(feeder.ask_all([request(i) for i in range(3)]))
            await asyncio.sleep(0.005)
            waiting.cancel()
            raise ValueError("a reward failed")

    with pytest.raises(ExceptionGroup):
        asyncio.run(body())
    assert len(engine.asked) == 3
    assert all(journal.reply(request_key(engine.fingerprint, asked), 0) is not None for asked in engine.asked)


def test_an_engine_is_left_even_if_its_last_replies_cannot_be_written() -> None:
    class Left(Scripted):
        left = False

        async def __aexit__(self, *exc: object) -> None:
            self.left = True

    class Full(SqliteJournal):
        def exchange(self, replies: object, requests: object) -> None:  # type: ignore[override]
            if replies:
                raise FittestError("the disk is full")

    engine = Left(echo)

    async def body() -> None:
        async with asyncio.timeout(30), Feeder(engine, Full(":memory:")) as feeder:
            await feeder.ask_all([request(1)])

    with pytest.raises(FittestError, match="the disk is full"):
        asyncio.run(body())
    assert engine.left
