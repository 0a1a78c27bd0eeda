"""What servers want otherwise than others do: more in a body, less, other names, headers, and reasoning apart."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends.openai import OpenAI
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.reasoning import cut_inside_reasoning
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from tests.http_engine import (
    Asked,
    HttpEngine,
    answers,
    chat,
    engine_of,
    error,
    once_well,
    refuses,
    reply,
    sampled,
    says,
    thinks_apart,
    well,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("short_pauses")

SECRET = "organisation-0123456789"


def samples(count: int) -> list[Request]:
    return [replace(chat(seed=20 + i), sample=i) for i in range(count)]


def texts(replies: list[Completion | Failure]) -> list[str]:
    return [reply.text if isinstance(reply, Completion) else reply.reason for reply in replies]


def test_extra_body_is_in_each_body_and_what_is_omitted_is_not(server: HttpEngine) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20}
    engine = engine_of(server, extra_body=extra, omit=["top_p", "seed"], token_limit="max_completion_tokens")
    server.answer = says({"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}]})
    sampled(engine, chat())
    assert server.asked[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello."}],
        "temperature": 0.8,
        "max_completion_tokens": 40,
        "n": 1,
        **extra,
    }


@pytest.mark.parametrize(
    ("settings", "fingerprint"),
    [
        ({}, "openai:m"),
        ({"extra_body": {}, "omit": [], "token_limit": "max_tokens"}, "openai:m"),
        ({"headers_env": {"X-Org": "SOME_ORG"}, "extra_query": {"api-version": "1"}}, "openai:m"),
        # canonical JSON: {"omit":["seed","top_p"]} and so on, first 16 hex digits of SHA-256
        ({"omit": ["top_p", "seed"]}, "openai:m:2752db4b1a3d9e85"),
        ({"omit": ["seed", "top_p"]}, "openai:m:2752db4b1a3d9e85"),
        ({"extra_body": {"top_k": 20}}, "openai:m:"),
        ({"token_limit": "max_completion_tokens"}, "openai:m:"),
    ],
)
def test_what_changes_replies_is_in_the_fingerprint_only_when_it_is_set(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], fingerprint: str
) -> None:
    monkeypatch.setenv("SOME_ORG", SECRET)
    found = engine_of(server, **settings).fingerprint
    assert (
        found == fingerprint if not fingerprint.endswith(":") else found.startswith(fingerprint) and len(found) == 25
    )


def test_headers_come_from_the_environment_and_are_shown_nowhere(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(asked: Asked) -> web.StreamResponse:
        sent = asked.headers["X-Org"]
        assert asked.request.query == {"api-version": "2025-01-01", "a b": "c&d"}
        return reply(asked, f"Yours: {sent}") if asked.number == 0 else error(400, f"bad {sent}")

    monkeypatch.setenv("SOME_ORG", SECRET)
    server.answer = echo
    query = {"api-version": "2025-01-01", "a b": "c&d"}
    engine = engine_of(server, headers_env={"X-Org": "SOME_ORG"}, extra_query=query, slots=1)
    assert texts(answers(engine, chat("a"), chat("b"))) == ["Yours: [key]", "400 Bad Request: bad [key]"]
    monkeypatch.delenv("SOME_ORG")
    with pytest.raises(FittestError, match=r"proposer\.headers_env: the environment variable SOME_ORG is not set"):
        engine_of(server, headers_env={"X-Org": "SOME_ORG"}, section="proposer")


def test_without_n_samples_are_asked_one_by_one_each_with_its_seed(server: HttpEngine) -> None:
    replies = answers(engine_of(server, omit=["n"]), *samples(3), together=3)
    assert sorted(asked.body["seed"] for asked in server.asked) == [20, 21, 22]
    assert not [asked for asked in server.asked if "n" in asked.body]
    assert replies == answers(engine_of(server), *samples(3))


def test_without_stop_replies_are_cut_here(server: HttpEngine) -> None:
    async def on_and_on(asked: Asked) -> web.StreamResponse:
        return reply(asked, "one\ntwo END three", finish_reason="length")

    server.answer = on_and_on
    request = Request("proposal", Sampling(stop=("END", "\n")), 7, prompt="zero")
    assert sampled(engine_of(server, omit=["stop"]), request) == Completion("one", "stop", 3, 5)
    assert "stop" not in server.asked[0].body
    kept = sampled(engine_of(server, omit=["stop"]), replace(request, sampling=Sampling(stop=("four",))))
    assert (kept.text, kept.finish_reason) == ("one\ntwo END three", "length")


def gives(*counts: int) -> Any:
    """Gives so many choices for the first request, the second and so on, then as many as are asked for."""

    async def answer(asked: Asked) -> web.StreamResponse:
        count = counts[asked.number] if asked.number < len(counts) else asked.body["n"]
        count = max(count, asked.body["max_tokens"] == 1)  # the server is asked for a token to see whether it works
        seed = asked.body["seed"]
        choices = [{"finish_reason": "stop", "message": {"content": f"{seed}+{i}"}} for i in range(count)]
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": count}})

    return answer


def test_samples_that_a_server_leaves_out_are_asked_for_again_with_the_seed_of_the_first(server: HttpEngine) -> None:
    server.answer = gives(3)
    assert texts(answers(engine_of(server), *samples(5), together=5)) == ["20+0", "20+1", "20+2", "23+0", "23+1"]
    assert [(asked.body["n"], asked.body["seed"]) for asked in server.asked] == [(5, 20), (2, 23)]


def test_a_server_that_always_gives_one_sample_is_asked_for_one(server: HttpEngine) -> None:
    server.answer = gives(*[1] * 20)
    engine = engine_of(server, slots=5)
    groups = [replace(asked, messages=(Message("user", text),)) for text in "ab" for asked in samples(5)]
    assert texts(answers(engine, *groups, together=5)) == [f"{20 + i}+0" for i in range(5)] * 2
    assert [asked.body["n"] for asked in server.asked] == [5, 4, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_server_that_gives_none_of_the_rest_fails_that_request(server: HttpEngine) -> None:
    server.answer = gives(3, *[0] * 20)
    replies = answers(engine_of(server), *samples(5), together=5)
    reason = "a server gave 3 of 5 samples, and none of the rest: the reply has no choices (8 tries)"
    assert texts(replies) == ["20+0", "20+1", "20+2", reason, reason]


REASONED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "reasoning_content": ({"content": "4", "reasoning_content": "2 + 2"}, "4", "2 + 2"),
    "reasoning": ({"content": "4", "reasoning": "2 + 2", "reasoning_content": None}, "4", "2 + 2"),
    "cut while it thought": ({"content": None, "reasoning": "2 +"}, "", "2 +"),
    "empty": ({"content": "4", "reasoning_content": ""}, "4", None),
    "half a surrogate pair": ({"content": "4", "reasoning": "a\ud83d"}, "4", "a?"),
    "in parts": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2"}]},
                {"type": "text", "text": "4"},
            ]
        },
        "4",
        "2 + 2",
    ),
}


@pytest.mark.parametrize("name", REASONED)
def test_reasoning_that_a_server_keeps_apart_is_kept_apart(server: HttpEngine, name: str) -> None:
    message, text, reasoning = REASONED[name]
    server.answer = says({"choices": [{"message": message, "finish_reason": "length"}]})
    assert sampled(engine_of(server), chat()) == Completion(text, "length", 0, 0, reasoning=reasoning)


@pytest.mark.parametrize(("said", "reason"), [("eos", "stop"), ("end_turn", "stop"), ("max_tokens", "length")])
def test_other_words_for_the_same_ending_are_understood(server: HttpEngine, said: str, reason: str) -> None:
    server.answer = says({"choices": [{"message": {"content": "Hi."}, "finish_reason": said}]})
    assert sampled(engine_of(server), chat()).finish_reason == reason


def test_a_key_in_the_reasoning_is_hidden(server: HttpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    server.answer = thinks_apart(well, f"They sent {SECRET}.")
    assert sampled(engine_of(server, api_key_env="SOME_KEY"), chat()).reasoning == "They sent [key]."


IMPOSSIBLE = {
    "unknown parameter": (
        refuses(400, "Unsupported parameter: 'max_tokens' is not supported with this model."),
        'set proposer.token_limit = "max_completion_tokens"',
    ),
    "value": (
        refuses(400, "Unsupported value: 'temperature' does not support 0.8 with this model."),
        'set proposer.omit = ["temperature"]',
    ),
    "named apart": (
        says({"error": {"message": "Not allowed.", "param": "n"}}, status=422),
        'set proposer.omit = ["n"]',
    ),
    "pydantic": (
        says({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, status=422),
        'set proposer.omit = ["seed"]',
    ),
    "in a list": (
        says(
            '[{"error": {"code": 400, "message": "Invalid value: \'top_p\'", "status": "INVALID_ARGUMENT"}}]',
            status=400,
        ),
        'set proposer.omit = ["top_p"]',
    ),
    "too many tokens": (
        refuses(400, "max_tokens is too large: 4096. This model supports at most 2048 completion tokens"),
        "lower max_tokens in the sampling of this role",
    ),
    "extra": (refuses(400, "unknown key top_k"), "take top_k out of proposer.extra_body"),
    "something": (refuses(400, "no"), "see proposer.omit, proposer.token_limit and proposer.extra_body"),
    "model": (
        says({"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, status=404),
        "set proposer.model = 'm' to a name that the server knows",
    ),
    "path": (refuses(405), "does proposer.base_url end in /v1, and is proposer.model = 'm' there?"),
    "not built": (refuses(501), "does proposer.base_url end in /v1"),
    "key": (refuses(401), "name the environment variable that holds the key: proposer.api_key_env"),
    "forbidden": (refuses(403), "proposer.api_key_env"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_until_a_role_is_answered_what_no_request_of_it_can_mend_ends_the_run(server: HttpEngine, name: str) -> None:
    behaviour, words = IMPOSSIBLE[name]

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (well if "judge" in str(asked.body["messages"]) else behaviour)(asked)

    server.answer = answer
    engine = engine_of(server, section="proposer", extra_body={"top_k": 20}, slots=1)
    judged = replace(chat("Please judge."), stage="judge")
    with pytest.raises(BaseExceptionGroup) as caught:
        answers(engine, judged, *map(chat, "ab"))
    assert len(server.asked) <= 2
    errors = caught.value.subgroup(FittestError)
    assert errors is not None
    (message,) = map(str, errors.exceptions)
    assert message.startswith(server.url)
    assert words in message
    assert "\n" not in message


def test_what_is_left_out_already_stays_in_the_advice(server: HttpEngine) -> None:
    server.answer = refuses(400, "'temperature' and 'top_p' are not supported")
    with pytest.raises(FittestError, match=r'set engine\.omit = \["seed", "temperature", "top_p"\]'):
        sampled(engine_of(server, omit=["seed"]), chat())


def test_of_two_parameters_that_exclude_each_other_one_stays(server: HttpEngine) -> None:
    server.answer = refuses(400, "`temperature` and `top_p` cannot both be specified for this model.")
    with pytest.raises(FittestError, match=r'set engine\.omit = \["top_p"\]'):
        sampled(engine_of(server), chat())


def test_what_an_error_repeats_of_the_request_is_not_what_it_is_about(server: HttpEngine) -> None:
    async def missing(asked: Asked) -> web.StreamResponse:
        one = {"type": "missing", "loc": ["body", "guided"], "msg": "Field required", "input": asked.body}
        return web.json_response({"detail": [one]}, status=422)

    async def forbidden(asked: Asked) -> web.StreamResponse:
        one = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}
        return web.json_response({"detail": [one]}, status=422)

    server.answer = missing
    with pytest.raises(
        FittestError, match=r"422 Unprocessable \w+: 'guided': Field required; the server refuses something"
    ):
        sampled(engine_of(server), chat())
    server.answer = forbidden
    with pytest.raises(FittestError, match=r'set engine\.omit = \["seed"\]'):
        sampled(engine_of(server), chat())


def test_an_answer_that_was_cut_inside_hidden_reasoning_is_known_as_such(server: HttpEngine) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 16}}
    cut = {"finish_reason": "length", "message": {"content": ""}}
    server.answer = says({"choices": [cut], "usage": usage})
    assert cut_inside_reasoning(sampled(engine_of(server), chat()))
    server.answer = says({"choices": [cut], "usage": {"prompt_tokens": 3, "completion_tokens": 16}})
    assert not cut_inside_reasoning(sampled(engine_of(server), chat()))


@pytest.mark.parametrize("words", ["maximum context length is 20 tokens", "blocked by our content management policy"])
def test_words_about_one_request_end_no_run_even_then(server: HttpEngine, words: str) -> None:
    server.answer = refuses(400, words)
    assert texts(answers(engine_of(server), chat())) == [f"400 Bad Request: {words}"]


@pytest.mark.parametrize("status", [400, 403, 422])
def test_once_a_role_is_answered_a_refusal_fails_one_request(server: HttpEngine, status: int) -> None:
    async def moderates(asked: Asked) -> web.StreamResponse:
        return error(status, "we do not talk about that") if asked.number % 2 else await well(asked)

    server.answer = moderates
    replies = answers(engine_of(server, slots=1), *[chat(seed=seed) for seed in range(60)])
    assert [isinstance(reply, Failure) for reply in replies] == [False, True] * 30


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_or_a_quota_that_ends_ends_the_run_at_any_time(server: HttpEngine, status: int) -> None:
    server.answer = once_well(refuses(status, "over"))
    with pytest.raises(BaseExceptionGroup) as caught:
        answers(engine_of(server, slots=1), *map(chat, "ab"))
    assert caught.group_contains(FittestError, match=rf"{status} .*: over")


def test_twenty_refused_prompts_in_a_row_of_one_role_end_the_run_whatever_others_are_answered(
    server: HttpEngine,
) -> None:
    refused = 0

    async def answer(asked: Asked) -> web.StreamResponse:
        nonlocal refused
        if asked.number == 0 or asked.body["messages"][0]["content"] == "judge":
            return await well(asked)
        refused += 1
        return error(400, f"no {refused}")

    async def ask() -> None:
        async with engine_of(server) as engine:
            await engine.sample(chat())
            for seed in range(30):
                await engine.sample(replace(chat("judge"), stage="judge"))
                # the samples of one prompt count once
                for _ in range(2):
                    with suppress(RequestFailedError):
                        await engine.sample(chat(f"prompt {seed}"))

    server.answer = answer
    with pytest.raises(
        FittestError, match="20 prompts in a row were refused, the last one with: 400 Bad Request: no 39"
    ):
        asyncio.run(ask())
    assert refused == 39


def test_nothing_of_a_run_that_asks_as_before_has_changed(server: HttpEngine) -> None:
    engine = OpenAI(base_url=[server.url], model="m")
    assert sampled(engine, chat()) == answers(engine_of(server), chat())[0]
    assert server.asked[0].body == {
        "model": "m",
        "temperature": 0.8,
        "top_p": 0.95,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": "Hello."}],
        "seed": 7,
        "n": 1,
    }
