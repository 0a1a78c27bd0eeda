"""Servers under load: concurrency follows what they bear, the dead are left out and found again, no reply is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends import endpoint, servers
from fittest.evo.backends.openai import OpenAI
from fittest.evo.backends.openai_format import refusal
from fittest.evo.backends.servers import Cause, Server, Servers, Trouble
from fittest.evo.errors import EngineLostError
from fittest.evo.feeder import Feeder
from fittest.evo.keys import request_key
from fittest.evo.records import Completion, Failure
from fittest.runs.output.journal import SqliteJournal
from tests.http_engine import (
    Answer,
    Asked,
    HttpEngine,
    answers,
    chat,
    engine_of,
    error,
    first,
    half_a_body,
    hang,
    once_well,
    refuses,
    well,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("short_pauses")


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not happened() and time.monotonic() < until:
        time.sleep(0.01)
    assert happened()


def test_retry_after_is_honoured_by_everything_sent_there(server: HttpEngine) -> None:
    server.answer = first(1, refuses(429, "", **{"Retry-After": "1"}))
    assert all(isinstance(answer, Completion) for answer in answers(engine_of(server), chat("a"), chat("b")))
    refused = max(asked.at for asked in server.asked if asked.again == 0)
    assert min(asked.at for asked in server.asked if asked.again == 1) - refused > 0.9


def retry_after(headers: dict[str, str]) -> float | None:
    trouble = refusal(429, headers, "busy")
    assert isinstance(trouble, Trouble)
    return trouble.retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", None), ("soon", None), ("nan", None), ("inf", None), ("2", 2.0), ("0.5", 0.5), ("-3", 0.0)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}) == seconds
    assert retry_after({}) is None


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after({"Retry-After": later}) == pytest.approx(59, abs=2)
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


def test_pauses_grow_and_differ_and_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    spread = [[servers.pause(times) for _ in range(50)] for times in (0, 3, 1000)]
    assert all(len(set(seconds)) > 40 for seconds in spread)
    assert [min(seconds) > 0 for seconds in spread] == [True] * 3
    assert max(spread[0]) < min(spread[1]) < max(spread[1]) < min(spread[2])
    assert max(spread[2]) <= 30.0


@pytest.mark.parametrize("company", [0, 30])
def test_a_request_that_breaks_every_server_fails_alone(server: HttpEngine, company: int) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        poison = asked.body["messages"][0]["content"] == "poison"
        return error(500, "cannot do this") if poison else await well(asked)

    server.answer = answer
    found = answers(engine_of(server), chat("poison"), *(chat(seed=seed) for seed in range(company)))
    assert found[0] == Failure("500 Internal Server Error: cannot do this (8 tries)")
    assert all(isinstance(reply, Completion) for reply in found[1:])
    if not company:
        poison = [asked for asked in server.asked if asked.body["max_tokens"] > 1]
        assert len(poison) == 8 + 3  # every third time in a row puts it down to the server, until that gives a token


def test_refusals_that_were_in_flight_together_are_one_complaint(server: HttpEngine) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        if asked.number < 16:
            server.most_running = 0
            return error(429)
        return await well(asked)

    server.answer = answer
    assert all(isinstance(reply, Completion) for reply in answers(engine_of(server), *map(chat, "abcdefghijklmnop")))
    assert 8 <= server.most_running <= 10


def test_being_busy_holds_up_no_request(server: HttpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "pause", lambda times, longest: 60.0)
    server.answer = first(3, refuses(429))
    assert isinstance(answers(engine_of(server), chat())[0], Completion)


def test_a_refused_request_is_a_sign_of_life(server: HttpEngine) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return error(500 if asked.number % 2 else 400)

    server.answer = once_well(answer)
    found = answers(engine_of(server, slots=1), *map(chat, "-abcdef"))
    assert found[1:] == [Failure("400 Bad Request")] * 6
    assert not [asked for asked in server.asked if asked.body["max_tokens"] == 1]


def test_a_server_that_refuses_to_give_a_token_lives(server: HttpEngine) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        if asked.body["max_tokens"] == 1:
            return error(422, "max_tokens must be at least 16")
        return error(500) if asked.again < 3 else await well(asked)

    server.answer = answer
    assert isinstance(answers(engine_of(server), chat())[0], Completion)


def test_the_least_loaded_server_is_asked_where_its_own_has_no_room(server: HttpEngine, other: HttpEngine) -> None:
    async def slowly(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await well(asked)

    server.answer = other.answer = slowly
    answers(engine_of(server, other, slots=4), *(chat("a", seed=seed) for seed in range(4)))
    assert (len(server.asked), len(other.asked)) == (2, 2)


def test_a_place_given_to_somebody_who_has_left_is_given_to_the_next() -> None:
    async def no_probe(server: Server) -> bool:
        return False

    async def body() -> None:
        places = Servers(["http://a"], slots=1, probe=no_probe, patience=5.0, timeout=5.0)
        server = await places.take()
        leaving, staying = asyncio.create_task(places.take()), asyncio.create_task(places.take())
        await asyncio.sleep(0)
        places.release(server)
        leaving.cancel()
        async with asyncio.timeout(2):
            assert await staying is server
        assert server.in_flight == 1

    asyncio.run(body())


def test_closing_leaves_alone_what_the_next_user_began_meanwhile() -> None:
    async def no_probe(server: Server) -> bool:
        return False

    async def body() -> None:
        places = Servers(["http://a"], slots=1, probe=no_probe, patience=5.0, timeout=5.0)
        (server,) = places.all
        places.failed(server, Trouble(Cause.UNREACHABLE, "gone"), sent_at=0.0)
        ended = server.revival
        closing = asyncio.create_task(places.close())
        await asyncio.sleep(0)
        assert not server.down
        places.failed(server, Trouble(Cause.UNREACHABLE, "gone again"), sent_at=0.0)
        begun = server.revival
        await closing
        assert ended is not None
        assert begun is not None
        assert (ended.cancelled(), begun.done(), server.down) == (True, False, True)
        await places.close()
        assert begun.cancelled()

    asyncio.run(body())


def test_concurrency_goes_down_in_a_storm_and_up_again_after_it(server: HttpEngine) -> None:
    seeds = itertools.count()
    allowed, seconds, refused = 0, 0.0, 0

    async def answer(asked: Asked) -> web.StreamResponse:
        nonlocal refused
        crowded = server.running > allowed
        await asyncio.sleep(seconds)
        if crowded:
            refused += 1
            return error(429, "slow down")
        return await well(asked)

    async def body() -> tuple[int, int, int]:
        async with asyncio.timeout(30), Feeder(engine_of(server), SqliteJournal(":memory:")) as feeder:

            async def at_once(count: int, *, bearing: int = 99, taking: float = 0.1) -> int:
                """How many of these the server had at once; slow answers show it, many quick ones change it."""
                nonlocal allowed, seconds
                allowed, seconds, server.most_running = bearing, taking, 0
                found = await feeder.ask_all([chat(seed=next(seeds)) for _ in range(count)])
                assert all(isinstance(reply, Completion) for reply in found)
                return server.most_running

            before = await at_once(16)
            await at_once(100, bearing=3, taking=0.02)
            during = await at_once(6)
            await at_once(300, taking=0.0)
            return before, during, await at_once(16)

    server.answer = answer
    before, during, after = asyncio.run(body())
    assert before == after == 16
    assert during <= 5
    assert 10 <= refused < 100


def test_two_servers_share_the_slots_and_the_faster_one_does_more(server: HttpEngine, other: HttpEngine) -> None:
    def taking(seconds: float) -> Answer:
        async def answer(asked: Asked) -> web.StreamResponse:
            await asyncio.sleep(seconds)
            return await well(asked)

        return answer

    server.answer, other.answer = taking(0.005), taking(0.05)
    found = answers(engine_of(server, other, slots=7), *(chat(seed=seed) for seed in range(120)))
    assert all(isinstance(reply, Completion) for reply in found)
    assert len(server.asked) + len(other.asked) == 120
    assert len(server.asked) > 2 * len(other.asked) > 0
    assert max(server.most_running, other.most_running) <= 4


def test_one_of_two_servers_dies_and_everything_is_answered_once(server: HttpEngine, other: HttpEngine) -> None:
    engine, requests = engine_of(server, other, slots=8), [chat(seed=seed) for seed in range(80)]
    journal = SqliteJournal(":memory:")

    async def dying(asked: Asked) -> web.StreamResponse:
        if asked.number == 20:
            server.begin_to_die()
        return await (hang if asked.number >= 20 else living)(asked)

    async def living(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return await well(asked)

    async def body() -> list[Completion | Failure]:
        async with asyncio.timeout(30), Feeder(engine, journal) as feeder:
            return await feeder.ask_all(requests)

    server.answer, other.answer = dying, living
    found = asyncio.run(body())
    assert all(isinstance(reply, Completion) for reply in found)
    assert found == [journal.reply(request_key("openai:m", request), 0) for request in requests]
    assert 80 < len(server.asked) + len(other.asked) <= 80 + 4
    assert other.most_running == 4  # the share of the dead is not put upon the living


def test_a_dead_server_is_found_again_when_it_is_back(server: HttpEngine, other: HttpEngine) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), Feeder(engine_of(server, other), SqliteJournal(":memory:")) as feeder:
            seeds = itertools.count()

            async def ask(number: int) -> None:
                found = await feeder.ask_all([chat(seed=next(seeds)) for _ in range(number)])
                assert all(isinstance(reply, Completion) for reply in found)

            await asyncio.to_thread(server.kill)
            await ask(40)
            assert not server.asked
            server.start()
            while not server.asked:
                await ask(4)
            assert server.asked[0].body["max_tokens"] == 1
            server.asked.clear()
            await ask(40)
            assert len(server.asked) >= 10

    asyncio.run(body())


@pytest.mark.parametrize("how", ["killed", "hanging", "busy", "broken"])
def test_with_all_servers_out_of_order_the_engine_is_lost_within_the_patience(
    server: HttpEngine, other: HttpEngine, how: str
) -> None:
    behaviours = {"hanging": hang, "busy": refuses(429), "broken": half_a_body, "killed": well}
    server.answer = other.answer = behaviours[how]
    if how == "killed":
        server.kill()
        other.kill()
    began = time.monotonic()
    with pytest.raises(BaseExceptionGroup) as caught:
        answers(engine_of(server, other, patience=0.5, timeout=0.3), *(chat(seed=seed) for seed in range(9)))
    assert 0.5 < time.monotonic() - began < 25
    match = rf"no server has answered.*{server.url} \(.+\), {other.url} \(.+\).*engine\.base_url"
    assert caught.group_contains(EngineLostError, match=match)


def test_an_outage_becomes_the_answer_of_no_request(server: HttpEngine) -> None:
    """All requests meet the outage many times more often than a request may fail by itself."""
    over = time.monotonic() + 1.0

    async def answer(asked: Asked) -> web.StreamResponse:
        return await well(asked) if time.monotonic() > over else error(500, "out of order")

    server.answer = answer
    found = answers(engine_of(server), *(chat(seed=seed) for seed in range(40)))
    assert all(isinstance(reply, Completion) for reply in found)
    assert len(server.asked) > 60


def test_giving_up_a_request_closes_it_and_frees_its_place(server: HttpEngine) -> None:
    async def body() -> None:
        async with asyncio.timeout(10), engine_of(server, slots=1) as engine:
            server.answer = hang
            asking, waiting = (asyncio.create_task(engine.sample(chat(text))) for text in "ab")
            await asyncio.to_thread(wait_until, lambda: server.running)
            waiting.cancel()
            asking.cancel()
            await asyncio.wait([asking, waiting])
            assert asking.cancelled()
            assert waiting.cancelled()
            server.answer = well
            assert isinstance(await engine.sample(chat("c")), Completion)
            await asyncio.to_thread(wait_until, lambda: server.given_up)

    asyncio.run(body())
    assert [asked.body["messages"][0]["content"] for asked in server.asked] == ["a", "c"]


def test_a_second_reply_to_one_request_is_the_answer_to_no_other() -> None:
    def reply(text: str) -> bytes:
        content = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )

    async def body() -> list[str]:
        idle, told = asyncio.Event(), asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                    writer.write(reply("asked for"))
                    await idle.wait()
                    writer.write(reply("unasked"))
                    await writer.drain()
                    told.set()

        async with asyncio.timeout(30), await asyncio.start_server(talk, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            async with OpenAI(
                base_url=[f"http://127.0.0.1:{port}/v1"], model="m", patience=5.0, timeout=5.0
            ) as engine:
                first = await engine.sample(chat("a"))
                idle.set()
                await told.wait()
                await asyncio.sleep(0.1)  # until the client has read it
                return [first.text, (await engine.sample(chat("b"))).text]

    assert asyncio.run(body()) == ["asked for", "asked for"]
