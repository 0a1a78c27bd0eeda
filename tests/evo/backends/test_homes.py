"""Requests of one prompt go to one server, which has read it, as far as that leaves no slot without work."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends.homes import Homes
from fittest.evo.backends.servers import Cause, Server, Servers, Trouble
from fittest.evo.records import Completion, Message, Request, Sampling
from tests.http_engine import Asked, HttpEngine, answers, chat, engine_of, well

URLS = [f"http://server-{number}/v1" for number in range(5)]
PROMPTS = [f"prompt {number}" for number in range(200)]


async def no_probe(server: Server) -> bool:
    return False


def servers_of(urls: Sequence[str] = URLS, slots: int = 20) -> Servers:
    return Servers(urls, slots=slots, probe=no_probe, patience=5.0, timeout=5.0)


def read_at(*servers: HttpEngine) -> Mapping[str, set[str]]:
    """The addresses at which each prompt has arrived."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for server in servers:
        for asked in server.asked:
            if "messages" in asked.body:
                found["".join(message["content"] for message in asked.body["messages"])].add(server.url)
    return found


def test_all_requests_of_a_prompt_arrive_at_one_server_and_in_a_later_session_too(
    server: HttpEngine, other: HttpEngine
) -> None:
    async def slowly(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return await well(asked)

    server.answer = other.answer = slowly
    for seeds in (range(4), range(4, 8)):
        asked = [chat(text, seed=seed) for seed in seeds for text in PROMPTS[:20]]
        found = answers(engine_of(server, other, slots=2 * len(asked)), *asked)
        assert all(isinstance(reply, Completion) for reply in found)
    where = read_at(server, other)
    assert sorted(where) == sorted(PROMPTS[:20])
    assert [len(urls) for urls in where.values()] == [1] * 20
    assert len(server.asked) + len(other.asked) == 160
    assert server.asked
    assert other.asked


def test_with_more_work_than_slots_prompts_are_read_once_and_no_slot_waits(
    server: HttpEngine, other: HttpEngine
) -> None:
    async def slowly(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.01 + asked.body["seed"] % 3 * 0.01)
        return await well(asked)

    server.answer = other.answer = slowly
    asked = [chat(text, seed=seed) for text in PROMPTS[:24] for seed in range(8)]
    assert all(isinstance(reply, Completion) for reply in answers(engine_of(server, other, slots=8), *asked))
    twice = sum(len(urls) - 1 for urls in read_at(server, other).values())
    assert twice <= 8  # at the end, when there is nothing else to do; by load alone it would be nearly all of them
    assert (server.most_running, other.most_running) == (4, 4)
    assert abs(len(server.asked) - len(other.asked)) < 24


def test_chats_that_end_in_the_same_words_are_different_prompts(server: HttpEngine, other: HttpEngine) -> None:
    def begun(text: str) -> Request:
        messages = (Message("user", text), Message("assistant", "1. <task>"))
        return Request("proposal", Sampling(max_tokens=8), 7, messages=messages)

    answers(engine_of(server, other, slots=40), *map(begun, PROMPTS[:20]))
    assert server.asked
    assert other.asked


def test_samples_that_go_together_fill_as_many_slots(server: HttpEngine, other: HttpEngine) -> None:
    async def together(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.03)
        choice = {"finish_reason": "stop", "message": {"content": "x"}}
        return web.json_response({"choices": [choice] * asked.body["n"], "usage": {}})

    server.answer = other.answer = together
    chats = [chat(text) for text in PROMPTS[:12]]
    grouped = [replace(one, sample=sample, seed=sample) for one in chats for sample in range(4)]
    found = answers(engine_of(server, other, slots=16), *grouped, together=4)
    assert all(isinstance(reply, Completion) for reply in found)
    assert (server.most_running, other.most_running) == (2, 2)


def test_a_server_that_is_lost_moves_its_own_prompts_and_no_others() -> None:
    async def body() -> None:
        servers = servers_of()

        async def round_of_all() -> dict[str, str]:
            where = {}
            for prompt in PROMPTS:
                server = await servers.take(prompt)
                where[prompt] = server.url
                servers.release(server)
            return where

        before = await round_of_all()
        lost = servers.all[2]
        servers.failed(lost, Trouble(Cause.UNREACHABLE, "gone"), sent_at=0.0)
        during = await round_of_all()
        moved = [prompt for prompt in PROMPTS if during[prompt] != before[prompt]]
        assert moved == [prompt for prompt in PROMPTS if before[prompt] == lost.url]
        # each of the others gets a part of them
        assert len(Counter(during[prompt] for prompt in moved)) == 4
        await servers.close()

    asyncio.run(body())


def test_a_prompt_that_had_to_go_elsewhere_stays_there() -> None:
    async def body() -> None:
        servers = servers_of(slots=5)
        first = await servers.take("a")
        second = await servers.take("a")
        assert second is not first
        servers.release(first)
        servers.release(second)
        assert await servers.take("a") is second

    asyncio.run(body())


def test_a_server_that_pauses_is_not_waited_for() -> None:
    async def body() -> None:
        servers = servers_of()
        home = await servers.take("a")
        servers.release(home)
        servers.failed(home, Trouble(Cause.BUSY, "slow down", retry_after=60.0), sent_at=0.0)
        assert servers.best_next([("a", 1)], room=1) == [0]
        assert await servers.take("a") is not home

    asyncio.run(body())


def test_those_who_wait_in_line_are_served_at_home_first_and_nobody_is_forgotten() -> None:
    async def body() -> None:
        servers = servers_of(URLS[:2], slots=2)
        at = {key: await servers.take(key) for key in ("a", "b")}
        assert len(set(at.values())) == 2
        places = {name: asyncio.create_task(servers.take(name[0])) for name in ("a1", "b1", "a2")}
        await asyncio.sleep(0)
        servers.release(at["b"])
        await asyncio.sleep(0.01)
        assert [name for name, place in places.items() if place.done()] == ["b1"]
        servers.release(at["b"])  # nobody who waits is at home there, so the first in line gets it
        await asyncio.sleep(0.01)
        assert [name for name, place in places.items() if place.done()] == ["a1", "b1"]
        servers.release(at["a"])
        assert await places["a2"] is at["a"]

    asyncio.run(body())


def test_new_prompts_and_prompts_whose_home_has_room_go_first() -> None:
    async def body() -> None:
        servers = servers_of(URLS[:2], slots=4)
        full = await servers.take("a")
        while full.in_flight < full.share:
            assert await servers.take("a") is full
        assert servers.best_next([("a", 1), ("a", 1), ("b", 1), ("c", 1), ("d", 1)], room=2) == [2, 3]
        # a group that needs more room than there is holds up what comes after it
        assert servers.best_next([("a", 4), ("b", 4), ("c", 1)], room=2) == []
        assert servers_of(URLS[:1]).best_next([("a", 1)], room=1) == []

    asyncio.run(body())


def test_the_order_of_a_prompt_does_not_depend_on_which_servers_are_there() -> None:
    every, fewer = Homes(URLS, kept=9), Homes(URLS[:3] + URLS[4:], kept=9)
    for prompt in PROMPTS:
        assert [URLS[server] for server in every.order(prompt) if server != 3] == [
            (URLS[:3] + URLS[4:])[server] for server in fewer.order(prompt)
        ]
    firsts = Counter(every.order(prompt)[0] for prompt in PROMPTS)
    assert min(firsts[server] for server in range(5)) > 20


def test_the_prompt_that_was_used_longest_ago_is_forgotten() -> None:
    homes = Homes(URLS, kept=2)
    for key, server in (("a", 1), ("b", 2), ("a", 3), ("c", 4), ("\ud800", 0)):
        homes.settle(key, server)
    assert [homes.home(key) for key in ("a", "b", "c", "\ud800")] == [None, None, 4, 0]
    assert sorted(homes.order("\ud800")) == list(range(5))
