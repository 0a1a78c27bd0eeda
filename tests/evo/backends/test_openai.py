"""The openai engine against real servers that misbehave: nothing is lost, nothing asked otherwise, no key leaks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from benchmarks.listening import Listening
from fittest.evo.backends.openai import OpenAI
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from tests.http_engine import (
    Answer,
    Asked,
    HttpEngine,
    all_samples,
    answers,
    chat,
    close,
    engine_of,
    first,
    half_a_body,
    hang,
    once_well,
    refuses,
    reply,
    sampled,
    says,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("short_pauses")

KEY = "sk-very-secret-0123456789"


def test_samples_of_one_prompt_go_out_as_one_request_and_its_tokens_are_counted_once(server: HttpEngine) -> None:
    server.answer = all_samples
    requests = [replace(chat(seed=20 + i), sample=i) for i in range(5)]
    replies = answers(engine_of(server, slots=16), *requests, together=3)
    assert sorted((asked.body["n"], asked.body["seed"]) for asked in server.asked) == [(2, 23), (3, 20)]
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == [
        "sample 0", "sample 1", "sample 2", "sample 0", "sample 1"
    ]  # fmt: skip
    counts = [(r.prompt_tokens, r.cached_tokens, r.completion_tokens) for r in replies if isinstance(r, Completion)]
    assert counts == [(10, 5, 7), (0, 0, 7), (0, 0, 7), (10, 5, 7), (0, 0, 7)]


def test_a_sample_without_text_fails_alone(server: HttpEngine) -> None:
    kept = {"message": {"content": "Hi."}, "finish_reason": "stop"}
    filtered = {"message": {"content": None}, "finish_reason": "content_filter"}
    server.answer = says({"choices": [kept, filtered]})
    replies = answers(engine_of(server), *[replace(chat(seed=i), sample=i) for i in range(2)], together=2)
    assert replies == [Completion("Hi.", "stop", 0, 0), Failure("finish_reason is content_filter")]


def test_tokens_of_choices_that_failed_are_charged_to_those_that_did_not(server: HttpEngine) -> None:
    filtered = {"message": {"content": None}, "finish_reason": "content_filter"}
    kept = {"message": {"content": "Hi."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
    server.answer = says({"choices": [filtered, kept, kept], "usage": usage})
    replies = answers(engine_of(server), *[replace(chat(seed=i), sample=i) for i in range(3)], together=3)
    counts = [(r.prompt_tokens, r.completion_tokens, r.cached_tokens) for r in replies if isinstance(r, Completion)]
    assert counts == [(10, 5, 4), (0, 4, 0)]
    assert isinstance(replies[0], Failure)


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
    behaviour, words = FINAL[name]
    server.answer = once_well(behaviour)
    _, failure = answers(engine_of(server, slots=1), chat("first"), chat())
    assert isinstance(failure, Failure)
    assert words in failure.reason
    assert len(server.asked) == 2


def test_a_servers_words_are_cut_to_a_line(server: HttpEngine) -> None:
    server.answer = once_well(refuses(400, "word\n" * 1000))
    _, failure = answers(engine_of(server, slots=1), chat("first"), chat())
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
        (refuses(404, "no model m"), "no model m; set engine.model = 'm' to a name that the server knows"),
        (refuses(404, "nothing"), "nothing; does engine.base_url end in /v1, and is engine.model = 'm' there"),
        (refuses(307, Location="http://elsewhere/v1"), "redirects to http://elsewhere/v1; set engine.base_url"),
    ],
)
def test_what_no_request_can_mend_ends_the_run(server: HttpEngine, behaviour: Answer, words: str) -> None:
    server.answer = behaviour
    with pytest.raises(FittestError) as caught:
        sampled(engine_of(server), chat())
    assert words in str(caught.value)
    assert len(server.asked) == 1


def test_a_key_that_a_header_holds_is_named_by_its_variable(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_KEY", "wrong-wrong-wrong")
    server.answer = refuses(401, "invalid subscription key")
    with pytest.raises(FittestError, match=r"check the key in the environment variable AZURE_KEY$"):
        sampled(engine_of(server, headers_env={"api-key": "AZURE_KEY"}), chat())


@pytest.mark.parametrize("status", [404, 405, 410, 501])
def test_a_model_that_is_gone_in_mid_run_ends_the_run_and_is_no_answer(server: HttpEngine, status: int) -> None:
    server.answer = once_well(refuses(status, "gone"))
    with pytest.raises(BaseExceptionGroup) as caught:
        answers(engine_of(server, slots=1), chat("a"), chat("b"))
    assert caught.group_contains(FittestError, match=rf"{status} .*: gone; does engine.base_url end in /v1")


def test_a_key_in_a_reply_is_hidden_and_a_placeholder_is_not(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(asked: Asked) -> web.StreamResponse:
        return reply(asked, f"You sent {asked.headers['Authorization']}")

    server.answer = echo
    for key, shown in ((KEY, "[key]"), ("EMPTY", "EMPTY")):
        monkeypatch.setenv("SOME_KEY", key)
        assert sampled(engine_of(server, api_key_env="SOME_KEY"), chat()).text == f"You sent Bearer {shown}"


def test_a_key_cannot_come_back_cut_in_half_or_in_the_status_line(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(asked: Asked) -> web.StreamResponse:
        sent = asked.headers["Authorization"]
        return web.Response(status=400, reason=f"No {sent}", text=f"{'word ' * 28}{sent}")

    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = once_well(echo)
    _, failure = answers(engine_of(server, api_key_env="SOME_KEY", slots=1), chat("first"), chat())
    assert isinstance(failure, Failure)
    assert failure.reason.startswith("400 No Bearer [key]: word word")
    assert KEY[:6] not in failure.reason


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
        "import sys, fittest.evo.feeder, fittest.runs.output.journal; from fittest.evo.backends.openai import OpenAI;"
        " OpenAI(base_url=['http://localhost/v1'], model='m');"
        " print(sorted({'torch', 'sklearn', 'scipy', 'transformers', 'polars', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.embedded
@pytest.mark.slow
def test_the_server_of_llama_cpp_answers_and_a_seeded_request_alone_repeats(smollm2: Path) -> None:
    async def body() -> list[Completion]:
        listening = Listening(model=smollm2, slots=2, context=512)
        async with listening, OpenAI(base_url=[listening.url], model="smollm2-135m", slots=2) as engine:
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
