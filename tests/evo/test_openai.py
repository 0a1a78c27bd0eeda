"""The openai engine against real servers that misbehave: nothing is lost, nothing asked otherwise, no key leaks."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from evo.backends import servers
from evo.backends.llamacpp import LlamaCpp
from evo.backends.openai import OpenAI
from evo.backends.openai_format import retry_after
from evo.errors import EngineLostError, FittestError, RequestFailedError
from evo.feeder import Feeder
from evo.keys import request_key
from evo.records import Completion, Failure, Message, Request, Sampling
from runs.journal import SqliteJournal
from tests.http_engine import Answer, Asked, HttpEngine, close, error, half_a_body, hang, reply, well

pytestmark = pytest.mark.usefixtures("short_pauses")

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[HttpEngine]:
    with HttpEngine() as engine:
        yield engine


@pytest.fixture
def other() -> Iterator[HttpEngine]:
    with HttpEngine() as engine:
        yield engine


def chat(text: str = "Hello.", seed: int = 7) -> Request:
    return Request("rollout", Sampling(max_tokens=40), seed, messages=(Message("user", text),))


def engine_of(*at: HttpEngine, **settings: Any) -> OpenAI:
    return OpenAI(base_url=[server.url for server in at], model="m", **{"patience": 5.0, "timeout": 5.0} | settings)


def answers(engine: OpenAI, *requests: Request) -> list[Completion | Failure]:
    """Through the feeder and the journal, as in a run."""

    async def body() -> list[Completion | Failure]:
        async with asyncio.timeout(30), Feeder(engine, SqliteJournal(":memory:")) as feeder:
            return await feeder.ask_all(requests)

    return asyncio.run(body())


def sampled(engine: OpenAI, request: Request) -> Completion:
    """Straight from the engine, with its own errors."""

    async def body() -> Completion:
        async with asyncio.timeout(30), engine:
            return await engine.sample(request)

    return asyncio.run(body())


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 5
    while not happened() and time.monotonic() < until:
        time.sleep(0.01)
    assert happened()


def first(times: int, behaviour: Answer) -> Answer:
    """Misbehave the first times that each request is asked."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.again < times else well)(asked)

    return answer


def says(response: dict[str, Any] | str, status: int = 200) -> Answer:
    async def answer(asked: Asked) -> web.StreamResponse:
        text = response if isinstance(response, str) else json.dumps(response)
        return web.Response(text=text, status=status, content_type="application/json")

    return answer


def refuses(status: int, message: str = "", **headers: str) -> Answer:
    async def answer(asked: Asked) -> web.StreamResponse:
        return error(status, message, **headers)

    return answer


def test_a_chat_goes_out_and_comes_back(server: HttpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    request = Request(
        "judge", Sampling(0.5, 0.9, 40, ("\n", "END")), 7, 3, (Message("system", "a"), Message("user", "b"))
    )
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    server.answer = says({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}], "usage": usage})
    assert sampled(engine_of(server, api_key_env="SOME_KEY"), request) == Completion("Hi.", "stop", 3, 5)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 40,
        "stop": ["\n", "END"],
        "seed": 7,
        "n": 1,
    }


def test_a_raw_text_is_continued_and_no_key_is_sent_where_none_is_named(server: HttpEngine) -> None:
    server.answer = says({"choices": [{"text": " 4", "finish_reason": "length"}]})
    request = Request("proposal", Sampling(max_tokens=1), 7, prompt="1 2 3")
    assert sampled(engine_of(server), request) == Completion(" 4", "length", 0, 0)
    (asked,) = server.asked
    assert (asked.path, asked.body["prompt"]) == ("/v1/completions", "1 2 3")
    assert not {"messages", "stop"} & asked.body.keys()
    assert "Authorization" not in asked.headers


PASSING: dict[str, Answer] = {
    "429": refuses(429, "slow down"),
    "429 with Retry-After": refuses(429, "slow down", **{"Retry-After": "0"}),
    "500": refuses(500, "oops"),
    "502 page": says("<html><h1>Bad gateway</h1></html>", status=502),
    "503": refuses(503, "loading the model"),
    "504": refuses(504),
    "error with status 200": says({"error": {"message": "oops"}}),
    "hang": hang,
    "half a body": half_a_body,
    "closed connection": close,
    "not JSON": says('{"choices": ['),
    "not text": says("\0\x80"),
    "deep JSON": says("[" * 100_000),
    "no choices": says({"object": "chat.completion"}),
    "empty choices": says({"choices": []}),
    "a list": says('[{"choices": 1}]'),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_can_pass_is_asked_again_in_the_same_words(server: HttpEngine, name: str) -> None:
    server.answer = first(2, PASSING[name])
    (answer,) = answers(engine_of(server, timeout=0.3), chat())
    assert answer == answers(engine_of(server), chat())[0]
    assert isinstance(answer, Completion)
    assert [asked.again for asked in server.asked] == [0, 1, 2, 3]


FINAL: dict[str, tuple[Answer, str]] = {
    "too long": (
        refuses(400, "maximum context length is\n 20 tokens"),
        "400 Bad Request: maximum context length is 20",
    ),
    "too long, called a fault": (refuses(500, "Context size has been exceeded."), "Context size has been exceeded."),
    "too long, called busy": (refuses(429, "Request too large for m"), "Request too large for m"),
    "invalid": (says({"detail": [{"msg": "bad seed"}]}, status=422), "bad seed"),
    "invalid, as text": (says("no such thing", status=400), "400 Bad Request: no such thing"),
    "page": (says("<html>", status=413), "413"),
    "filtered": (says({"choices": [{"finish_reason": "content_filter"}]}), "finish_reason is content_filter"),
    "no reason": (says({"choices": [{"message": {"content": "x"}}]}), "finish_reason is None"),
    "no text": (
        says({"choices": [{"finish_reason": "stop", "message": {"content": None}}]}),
        "the reply has no text (finish_reason is stop)",
    ),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_is_refused_for_good_is_a_failure_in_the_servers_words(server: HttpEngine, name: str) -> None:
    server.answer, words = FINAL[name]
    (failure,) = answers(engine_of(server), chat())
    assert isinstance(failure, Failure)
    assert words in failure.reason
    assert len(server.asked) == 1


def test_a_servers_words_are_cut_to_a_line(server: HttpEngine) -> None:
    server.answer = refuses(400, "word\n" * 1000)
    (failure,) = answers(engine_of(server), chat())
    assert isinstance(failure, Failure)
    assert "\n" not in failure.reason
    assert len(failure.reason) <= 200


def test_half_a_surrogate_pair_can_be_journalled(server: HttpEngine) -> None:
    server.answer = says('{"choices": [{"message": {"content": "a\\ud83d"}, "finish_reason": "length"}]}')
    assert answers(engine_of(server), chat()) == [Completion("a?", "length", 0, 0)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_run_and_names_the_variable_alone(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = refuses(status, f"Incorrect API key provided: {KEY}")
    with pytest.raises(FittestError, match=r"provided: \[key\]; check the key in the environment variable SOME_KEY"):
        sampled(engine_of(server, api_key_env="SOME_KEY"), chat())
    with pytest.raises(FittestError, match=r"engine\.api_key_env"):
        sampled(engine_of(server), chat())


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (refuses(402, "no credit"), "402 Payment Required: no credit"),
        (says({"error": {"message": "pay", "code": "insufficient_quota"}}, status=429), "Too Many Requests: pay"),
        (refuses(404, "no model m"), "no model m; does engine.base_url end in /v1, and is engine.model = 'm' there"),
        (refuses(307, Location="http://elsewhere/v1"), "redirects to http://elsewhere/v1; set engine.base_url"),
    ],
)
def test_what_no_request_can_mend_ends_the_run(server: HttpEngine, behaviour: Answer, words: str) -> None:
    server.answer = behaviour
    with pytest.raises(FittestError) as caught:
        sampled(engine_of(server), chat())
    assert words in str(caught.value)
    assert len(server.asked) == 1


def test_not_found_is_about_the_request_once_the_server_has_served(server: HttpEngine) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return error(404, "gone") if asked.number else await well(asked)

    server.answer = answer
    found = answers(engine_of(server, slots=1), chat("a"), chat("b"))
    assert isinstance(found[0], Completion)
    assert found[1] == Failure("404 Not Found: gone")


def test_retry_after_is_honoured_by_everything_sent_there(server: HttpEngine) -> None:
    server.answer = first(1, refuses(429, "", **{"Retry-After": "1"}))
    assert all(isinstance(answer, Completion) for answer in answers(engine_of(server), chat("a"), chat("b")))
    refused = max(asked.at for asked in server.asked if asked.again == 0)
    assert min(asked.at for asked in server.asked if asked.again == 1) - refused > 0.9


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
    assert max(spread[2]) <= servers.LONGEST_PAUSE


@pytest.mark.parametrize("company", [0, 30])
def test_a_request_that_breaks_every_server_fails_alone(server: HttpEngine, company: int) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        poison = asked.body["messages"][0]["content"] == "poison"
        return error(500, "cannot do this") if poison else await well(asked)

    server.answer = answer
    found = answers(engine_of(server), chat("poison"), *(chat(seed=seed) for seed in range(company)))
    assert found[0] == Failure("500 Internal Server Error: cannot do this (8 tries)")
    assert all(isinstance(reply, Completion) for reply in found[1:])


def test_concurrency_goes_down_in_a_storm_and_up_again_after_it(server: HttpEngine) -> None:
    allowed, refused = 3, 0

    async def answer(asked: Asked) -> web.StreamResponse:
        nonlocal refused
        crowded = server.running > allowed
        await asyncio.sleep(0.005)
        if crowded:
            refused += 1
            return error(429, "slow down")
        return await well(asked)

    async def body() -> tuple[list[int], list[Completion | Failure]]:
        nonlocal allowed
        most = []
        async with asyncio.timeout(30), Feeder(engine_of(server), SqliteJournal(":memory:")) as feeder:
            found = await feeder.ask_all([chat(seed=seed) for seed in range(100)])
            most.append(server.most_running)
            allowed, server.most_running = 99, 0
            found += await feeder.ask_all([chat(seed=1000 + seed) for seed in range(10)])
            most.append(server.most_running)
            found += await feeder.ask_all([chat(seed=2000 + seed) for seed in range(300)])
            most.append(server.most_running)
        return most, found

    server.answer = answer
    (before, during, after), found = asyncio.run(body())
    assert all(isinstance(reply, Completion) for reply in found)
    assert before == after == 16
    assert during <= 6
    assert 13 <= refused < 100


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
    assert 0.5 < time.monotonic() - began < 3
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


def test_a_key_in_a_reply_is_hidden_and_a_placeholder_is_not(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(asked: Asked) -> web.StreamResponse:
        return reply(asked, f"You sent {asked.headers['Authorization']}")

    server.answer = echo
    for key, shown in ((KEY, "[key]"), ("EMPTY", "EMPTY")):
        monkeypatch.setenv("SOME_KEY", key)
        assert sampled(engine_of(server, api_key_env="SOME_KEY"), chat()).text == f"You sent Bearer {shown}"


@pytest.mark.parametrize(("value", "words"), [(" ", "is not set"), ("k\u00e9y", "characters that no key has")])
def test_a_key_that_is_not_there_or_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(FittestError, match=f"the environment variable SOME_KEY .*{words}"):
        OpenAI(base_url=["http://localhost/v1"], model="m", api_key_env="SOME_KEY")


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(FittestError, match=r'pip install "fittest\[openai\]"'):
        OpenAI(base_url=["http://localhost/v1"], model="m")


def test_the_servers_are_no_part_of_what_a_reply_is_kept_under(server: HttpEngine, other: HttpEngine) -> None:
    assert engine_of(server).fingerprint == engine_of(other, timeout=1.0, slots=3).fingerprint == "openai:m"


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, evo.feeder, runs.journal; from evo.backends.openai import OpenAI;"
        " OpenAI(base_url=['http://localhost/v1'], model='m');"
        " print(sorted({'torch', 'sklearn', 'polars', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.embedded
@pytest.mark.slow
def test_the_server_of_llama_cpp_answers_and_a_seeded_request_alone_repeats(smollm2: Path) -> None:
    async def body() -> list[Completion]:
        async with LlamaCpp(model=smollm2, slots=2, context=512) as embedded:
            url = f"{embedded._server.listening_address}/v1"
            async with OpenAI(base_url=[url], model="smollm2-135m", slots=2) as engine:
                requests = [chat("Tell me a story.", seed) for seed in (5, 5, 6)]
                raw = Request("proposal", Sampling(0.0, max_tokens=12, stop=("\n",)), 1, prompt="1, 2, 3, 4, 5, 6,")
                replies = [await engine.sample(request) for request in (*requests, raw)]
                with pytest.raises(RequestFailedError, match="exceed"):
                    await engine.sample(chat("word " * 2000))
                return replies

    first, again, other, counted = asyncio.run(body())
    assert first == again
    assert first.text
    assert first.text != other.text
    assert "7, 8" in counted.text
    assert (first.completion_tokens, first.finish_reason) == (40, "length")
    assert first.prompt_tokens > 0
