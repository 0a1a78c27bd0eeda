"""Samples of one prompt go to the engine as one request, and each has its own place in journal and slots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fittest.evo.feeder import EndRun, Feeder
from fittest.evo.keys import request_key
from fittest.evo.records import Completion, Request
from fittest.evo.spending import Budget
from fittest.runs.output.journal import SqliteJournal
from tests.scripted_engine import Scripted, echo, request


class Together(Scripted):
    """An engine that answers several samples of one prompt at once."""

    def __init__(self, slots: int = 4) -> None:
        super().__init__(echo, slots)
        self.groups: list[list[int]] = []

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion]:
        self.groups.append([asked.sample for asked in requests])
        return [
            Completion(f"{requests[0].seed}:{asked.sample}", "stop", 3 * (not i), 5)
            for i, asked in enumerate(requests)
        ]


def samples_of(number: int, count: int) -> list[Request]:
    return [replace(request(number), sample=i, seed=100 * number + i) for i in range(count)]


def test_samples_of_a_prompt_go_together_and_other_requests_alone() -> None:
    journal, engine = SqliteJournal(":memory:"), Together()

    async def body() -> list[object]:
        async with Feeder(engine, journal, together=2) as feeder:
            return list(await feeder.ask_all([*samples_of(1, 5), *samples_of(2, 2), request(7)]))

    replies = asyncio.run(body())
    assert sorted(engine.groups) == [[0, 1], [0, 1], [2, 3]]
    assert [asked.seed for asked in engine.asked] == [104, 7]
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == [
        "100:0", "100:1", "102:2", "102:3", "PROMPT 1", "200:0", "200:1", "PROMPT 7"
    ]  # fmt: skip
    engine.groups, engine.asked = [], []
    assert asyncio.run(body()) == replies
    assert (engine.groups, engine.asked) == ([], [])


def test_only_the_samples_that_the_journal_lacks_are_asked_for() -> None:
    journal, engine = SqliteJournal(":memory:"), Together()
    wanted = samples_of(1, 4)
    journal.exchange([(request_key(engine.fingerprint, wanted[1]), 1, Completion("known", "stop", 1, 1))], [])

    async def body() -> list[object]:
        async with Feeder(engine, journal, together=4) as feeder:
            return list(await feeder.ask_all(wanted))

    replies = asyncio.run(body())
    assert engine.groups == [[0, 2, 3]]
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ["100:0", "known", "100:2", "100:3"]


def test_samples_together_take_a_slot_each_and_stop_at_a_cap_that_lies_between_them() -> None:
    engine = Together(slots=8)

    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:"), budget=Budget(max_requests=5), together=4) as feeder:
            await feeder.ask_all([one for number in range(6) for one in samples_of(number, 4)])

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(body())
    assert caught.group_contains(EndRun, match="max_requests")
    assert engine.groups == [[0, 1, 2, 3]]


def test_groups_are_no_larger_than_a_cap_on_requests() -> None:
    engine = Together(slots=8)

    async def body() -> None:
        async with Feeder(engine, SqliteJournal(":memory:"), budget=Budget(max_requests=3), together=8) as feeder:
            await feeder.ask_all(samples_of(1, 8))

    with pytest.raises(BaseExceptionGroup):
        asyncio.run(body())
    assert engine.groups == [[0, 1, 2]]
