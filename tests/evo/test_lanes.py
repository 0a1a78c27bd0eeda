"""An engine may choose what it answers next, and nobody waits for ever because of that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from fittest.evo.feeder import Feeder
from fittest.evo.records import Request
from fittest.runs.output.journal import SqliteJournal
from tests.scripted_engine import Scripted, echo, request


class Fussy(Scripted):
    """An engine that would rather answer requests with even seeds."""

    def best_next(self, waiting: Iterable[Sequence[Request]], room: float) -> Sequence[int]:
        return [place for place, (asked, *_) in enumerate(waiting) if asked.seed % 2 == 0][: int(room)]


def asked_in_order(engine: Scripted, requests: Sequence[Request]) -> list[int]:
    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:")) as feeder:
            await feeder.ask_all(requests)

    asyncio.run(body())
    return [asked.seed for asked in engine.asked]


def test_what_the_engine_chooses_goes_first_whatever_its_stage() -> None:
    requests = [request(1), request(2, "judge"), request(3, "judge"), request(4), request(6, "proposal")]
    assert asked_in_order(Fussy(echo, slots=3), requests) == [6, 4, 2, 1, 3]


def test_a_request_is_overtaken_as_often_as_there_are_slots() -> None:
    requests = [request(number) for number in (1, *range(2, 42, 2))]
    assert asked_in_order(Fussy(echo, slots=2), requests).index(1) == 2
    assert asked_in_order(Fussy(echo, slots=4), requests).index(1) == 4


def test_every_request_is_answered_once() -> None:
    order = asked_in_order(Fussy(echo, slots=3), [request(number) for number in range(1000)])
    assert sorted(order) == list(range(1000))
