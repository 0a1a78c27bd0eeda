"""Servers are tried out before a run begins: in every role, and in the forms in which proposals can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends import endpoint_trials, openai_forms
from fittest.evo.backends.openai import OpenAI
from fittest.evo.errors import EngineLostError, FittestError
from fittest.evo.records import Completion, Form, Message, Request, Sampling
from tests.http_engine import (
    Answer,
    Asked,
    HttpEngine,
    answers,
    chat,
    chat_only,
    engine_of,
    error,
    first,
    hang,
    loaded,
    needs_extra_body,
    refuses,
    reply,
    says,
    thinks_apart,
    thinks_in_text,
    through,
    well,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("short_pauses")

ALL: tuple[Form, ...] = ("completion", "prefill", "chat")
ROLES = (
    Request("rollout", Sampling(max_tokens=300), 1, messages=(Message("user", "Say hello."),)),
    Request("proposal", Sampling(max_tokens=160, stop=("\n",)), 2, prompt="1, 2,"),
    Request("judge", Sampling(0.0), 3, 5, messages=(Message("user", "Judge."),)),
)
BEGUN = Request("proposal", Sampling(), 4, messages=(Message("user", "Say hello."), Message("assistant", "Hello")))


def tried(engine: OpenAI, requests: Sequence[Request] = ROLES) -> list[str]:
    async def body() -> list[str]:
        async with asyncio.timeout(30):
            return await engine.try_out(requests)

    return asyncio.run(body())


def form_of(engine: OpenAI, wanted: Sequence[Form] = ALL) -> tuple[Form, str]:
    async def body() -> tuple[Form, str]:
        async with asyncio.timeout(30):
            return await engine.proposal_form(wanted)

    return asyncio.run(body())


def nowhere() -> HttpEngine:
    """Nothing listens there."""
    return HttpEngine(port=1)


def test_each_server_is_asked_once_in_each_role_with_few_tokens(server: HttpEngine, other: HttpEngine) -> None:
    assert tried(engine_of(server, other), [replace(role, sample=0) for role in ROLES]) == []
    for at in (server, other):
        assert sorted(asked.path for asked in at.asked) == ["/v1/chat/completions"] * 2 + ["/v1/completions"]
        assert {asked.body["max_tokens"] for asked in at.asked} == {16}
        assert {asked.body["n"] for asked in at.asked} == {1}
        assert sorted(asked.body["seed"] for asked in at.asked) == [1, 2, 3]


def test_samples_that_will_be_asked_for_together_are_tried_together(server: HttpEngine) -> None:
    answer, *others = ROLES
    assert tried(engine_of(server), [replace(answer, sample=sample) for sample in range(4)] + others) == []
    assert sorted(asked.body["n"] for asked in server.asked) == [1, 1, 4]


def test_all_are_asked_at_once(server: HttpEngine) -> None:
    async def slowly(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return await well(asked)

    server.answer = slowly
    tried(engine_of(server, slots=1))
    assert server.most_running == 3


def test_a_trial_that_was_answered_counts_as_an_answer_in_that_role(server: HttpEngine) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return await well(asked) if asked.body["max_tokens"] == 16 else error(400, "not that")

    async def body(roles: Sequence[Request]) -> None:
        async with engine_of(server) as engine:
            await engine.try_out(roles)
            await engine.sample(ROLES[0])

    server.answer = answer
    with pytest.raises(Exception, match=r"^400 Bad Request: not that$"):
        asyncio.run(body(ROLES))
    with pytest.raises(FittestError, match=r"not that; the server refuses something"):
        asyncio.run(body(ROLES[1:]))


WRONG: dict[str, tuple[Answer, str]] = {
    "path": (refuses(404), "404 Not Found; does engine.base_url end in /v1"),
    "no completions": (
        chat_only(),
        "404 Not Found: Not Found; for a server that only takes chats, set [operators] form",
    ),
    "model": (refuses(404, "model m not found"), "set engine.model = 'm' to a name that the server knows"),
    "key": (refuses(401, "who?"), "401 Unauthorized: who?; name the environment variable"),
    "parameter": (refuses(400, "'seed' is not supported"), 'set engine.omit = ["seed"]'),
    "page": (says("<html>", status=404), "404 Not Found; does engine.base_url end in /v1"),
    "fault": (refuses(500, "oops"), "gives no token: 500 Internal Server Error: oops"),
    "not this protocol": (says({"hello": 1}), "gives no token: the reply has no choices"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_in_one_line(server: HttpEngine, name: str) -> None:
    server.answer, words = WRONG[name]
    with pytest.raises(FittestError) as caught:
        tried(engine_of(server))
    assert words in str(caught.value)
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_server_is_an_error_even_if_the_others_work(server: HttpEngine, other: HttpEngine) -> None:
    other.answer = refuses(401)
    with pytest.raises(FittestError, match=f"^{other.url}: 401"):
        tried(engine_of(server, other))


def test_dead_servers_are_named_within_seconds_and_are_a_warning_if_one_works(server: HttpEngine) -> None:
    began = time.monotonic()
    with pytest.raises(FittestError, match=r"127\.0\.0\.1:1/v1 gives no token: Cannot connect"):
        tried(engine_of(nowhere(), patience=300.0, timeout=600.0))
    unknown = OpenAI(base_url=["http://no-such-host.invalid/v1"], model="m")
    with pytest.raises(FittestError, match=r"no-such-host\.invalid/v1 gives no token: Cannot connect"):
        tried(unknown)
    assert time.monotonic() - began < 100
    (warning,) = tried(engine_of(server, nowhere()))
    assert warning.startswith("http://127.0.0.1:1/v1 gives no token: Cannot connect")


def test_servers_that_are_busy_or_slow_are_a_warning(
    server: HttpEngine, other: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_trials, "_TRIAL_SECONDS", 0.5)
    server.answer, other.answer = refuses(503, "loading"), hang
    assert tried(engine_of(server, other), ROLES[:1]) == [
        f"{server.url} is busy: 503 Service Unavailable: loading",
        f"{other.url} has accepted a request, and not answered within 0.5 s",
    ]


def test_an_accident_is_forgiven(server: HttpEngine) -> None:
    server.answer = first(2, refuses(502))
    assert tried(engine_of(server)) == []


def test_an_example_that_is_refused_for_its_words_is_a_warning(server: HttpEngine) -> None:
    server.answer = refuses(400, "flagged by moderation")
    assert tried(engine_of(server), ROLES[:1]) == [
        f"{server.url} refuses an example of a request: 400 Bad Request: flagged by moderation"
    ]


def test_a_model_that_thinks_longer_than_a_trial_allows_has_answered(server: HttpEngine) -> None:
    cut = refuses(400, "Could not finish the message because max_tokens or model output limit was reached.")
    server.answer = cut
    assert tried(engine_of(server)) == []
    server.answer = chat_only(cut)
    assert form_of(engine_of(server))[0] == "chat"


@pytest.mark.parametrize("wait", [True, False])
def test_until_a_server_has_answered_its_absence_ends_the_run_soon(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    monkeypatch.setattr("fittest.evo.backends.servers._LONGEST_ABSENCE", 0.5)

    async def body() -> None:
        async with engine_of(server, patience=60.0) as engine:
            if wait:
                await engine.sample(chat("a"))
            await asyncio.to_thread(server.kill)
            asking = asyncio.create_task(engine.sample(chat("b")))
            if wait:
                await asyncio.sleep(2.5)
                assert not asking.done()
                server.start()
            await asking

    if wait:
        asyncio.run(body())
    else:
        with pytest.raises(EngineLostError, match=r"no server has answered for 0\.5 s"):
            asyncio.run(body())


def test_a_server_that_is_loading_is_waited_for_although_it_was_not_there_at_first(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fittest.evo.backends.servers._LONGEST_ABSENCE", 0.5)
    port = server.port
    server.kill()
    over = time.monotonic() + 2.0

    async def loading(asked: Asked) -> web.StreamResponse:
        return await well(asked) if time.monotonic() > over else error(503, "loading")

    async def body() -> Completion:
        async with asyncio.timeout(20), engine_of(server, patience=60.0) as engine:
            asking = asyncio.create_task(engine.sample(chat()))
            await asyncio.sleep(0.2)
            server.start()
            return await asking

    server.answer = loading
    assert asyncio.run(body())
    assert server.port == port


def continues(
    *, new_message: int = 0, needs: str | None = None, refuses_key: str | None = None, counts: bool = True
) -> Answer:
    """A chat-only server that counts a word of a message as a token, and so many for the header of a new message.

    It continues an answer if the body or the last message holds the key `needs`, or always if that is None; it
    refuses bodies that hold `refuses_key`.
    """

    async def answer(asked: Asked) -> web.StreamResponse:
        last = asked.body["messages"][-1]
        if refuses_key is not None and refuses_key in asked.body | last:
            return error(400, f"Unrecognized request argument supplied: {refuses_key}")
        read = sum(len(message["content"].split()) for message in asked.body["messages"]) + 7
        if last["role"] == "assistant" and needs is not None and needs not in asked.body | last:
            read += new_message
        return reply(asked, "!", tokens=(read, 1) if counts else (0, 0))

    return chat_only(answer)


def test_completions_are_preferred_where_they_are(server: HttpEngine, other: HttpEngine) -> None:
    assert form_of(engine_of(server, other)) == ("completion", "there is /completions")
    assert [asked.path for asked in (*server.asked, *other.asked)] == ["/v1/completions"] * 2


def test_one_server_without_completions_decides_for_all(server: HttpEngine, other: HttpEngine) -> None:
    server.answer = well
    other.answer = chat_only()
    form, words = form_of(engine_of(server, other), ("completion", "chat"))
    assert (form, words) == ("chat", f"{other.url} has no /completions (404 Not Found: Not Found)")


@pytest.mark.parametrize(
    ("behaviour", "keys"),
    [
        (
            continues(needs="continue_final_message", new_message=5),
            {"continue_final_message", "add_generation_prompt"},
        ),
        (continues(), {"continue_final_message", "add_generation_prompt"}),
        (continues(refuses_key="continue_final_message"), set()),
        (continues(needs="prefix", new_message=5), {"prefix"}),
        (continues(needs="prefix", new_message=5, refuses_key="add_generation_prompt"), {"prefix"}),
    ],
)
def test_an_answer_is_continued_in_the_way_that_the_server_knows(
    server: HttpEngine, behaviour: Answer, keys: set[str]
) -> None:
    server.answer = behaviour

    async def body() -> Completion:
        async with engine_of(server) as engine:
            form, words = await engine.proposal_form(ALL)
            assert (form, words) == ("prefill", f"{server.url} has no /completions (404 Not Found: Not Found)")
            server.asked.clear()
            return await engine.sample(BEGUN)

    assert asyncio.run(body()).text == "!"
    sent = server.asked[0].body
    assert {"continue_final_message", "add_generation_prompt"} & sent.keys() | (
        {"prefix"} & sent["messages"][-1].keys()
    ) == keys


def test_requests_that_begin_no_answer_never_carry_the_keys(server: HttpEngine) -> None:
    answers(engine_of(server), chat())
    assert not {"continue_final_message", "add_generation_prompt"} & server.asked[0].body.keys()


def test_a_run_that_goes_on_learns_again_how_to_continue(server: HttpEngine) -> None:
    server.answer = continues(needs="prefix", new_message=5, refuses_key="add_generation_prompt")
    assert tried(engine_of(server), [BEGUN]) == []
    assert server.asked[-1].body["messages"][-1] == {"role": "assistant", "content": "Hello", "prefix": True}


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (continues(needs="nothing", new_message=4), "begins a new answer in place of continuing one"),
        (continues(counts=False), "counts no tokens, so nothing shows whether it continues an answer"),
    ],
)
def test_a_server_that_does_not_show_that_it_continues_is_asked_in_plain_chats(
    server: HttpEngine, behaviour: Answer, words: str
) -> None:
    server.answer = behaviour
    form, found = form_of(engine_of(server))
    assert form == "chat"
    assert found == f"{server.url} has no /completions (404 Not Found: Not Found); {server.url} {words}"


def test_a_form_that_is_insisted_on_and_not_served_is_an_error_that_says_what_to_change(server: HttpEngine) -> None:
    server.answer = chat_only()
    with pytest.raises(FittestError, match=rf'^{server.url}: 404 .*set \[operators\] form = "chat"'):
        form_of(engine_of(server), ("completion",))


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (refuses(401, "who?"), "401 Unauthorized: who?; name the environment variable"),
        (refuses(400, "'temperature' does not support 0.8"), 'set proposer.omit = ["temperature"]'),
        (refuses(404, "The model `m` does not exist"), "set proposer.model = 'm' to a name that the server knows"),
        (refuses(404), "does proposer.base_url end in /v1"),
    ],
)
def test_what_has_nothing_to_do_with_the_form_is_an_error(server: HttpEngine, behaviour: Answer, words: str) -> None:
    server.answer = behaviour
    with pytest.raises(FittestError) as caught:
        form_of(engine_of(server, section="proposer"))
    assert words in str(caught.value)


def test_a_dead_server_has_no_say_while_another_answers_and_is_named_otherwise(server: HttpEngine) -> None:
    assert form_of(engine_of(server, nowhere()))[0] == "completion"
    with pytest.raises(FittestError, match=r"127\.0\.0\.1:1/v1 gives no token: Cannot connect"):
        form_of(engine_of(nowhere()))


def test_a_busy_server_is_asked_again_and_a_slow_one_is_not(
    server: HttpEngine, other: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_forms, "_TRIAL_SECONDS", 0.3)
    monkeypatch.setattr(openai_forms, "pause", lambda times, longest: 0.01)
    server.answer, other.answer = first(5, refuses(429)), hang
    assert form_of(engine_of(server, other))[0] == "completion"
    assert (len(server.asked), len(other.asked)) == (6, 1)


def test_a_form_that_is_refused_late_ends_the_run_and_fails_no_proposal(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may hold every request until the model behind it is loaded."""
    monkeypatch.setattr(openai_forms, "_TRIAL_SECONDS", 0.3)

    async def body() -> None:
        async with engine_of(server) as engine:
            form, words = await engine.proposal_form(ALL)
            assert (form, words) == ("completion", f"{server.url} has not answered within 0.3 s, and not refused")
            server.answer = refuses(400, "chats only")
            await engine.sample(ROLES[1])

    server.answer = hang
    with pytest.raises(FittestError, match=r'chats only; .*set \[operators\] form = "chat"'):
        asyncio.run(body())


def test_a_server_that_is_late_is_not_asked_whether_it_continues(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_forms, "_TRIAL_SECONDS", 0.3)
    server.answer = hang
    form, words = form_of(engine_of(server), ("prefill", "chat"))
    assert form == "chat"
    assert words.startswith(f"{server.url} has not answered in time, so nothing shows whether it continues an answer;")
    assert not [asked for asked in server.asked if asked.body["messages"][-1]["role"] == "assistant"]


def test_the_answers_of_forms_count_for_proposals(server: HttpEngine) -> None:
    async def body() -> None:
        async with engine_of(server) as engine:
            await engine.proposal_form(ALL)
            server.answer = refuses(400, "not that")
            await engine.sample(ROLES[1])

    with pytest.raises(Exception, match=r"^400 Bad Request: not that$"):
        asyncio.run(body())


@pytest.fixture(scope="module")
def embedded(smollm2: Path) -> Iterator[Answer]:
    """A real model behind HTTP."""
    with loaded(smollm2, slots=2, context=512) as model:
        yield through(model)


@pytest.mark.embedded
@pytest.mark.slow
def test_the_real_model_behind_http_continues_in_every_form(server: HttpEngine, embedded: Answer) -> None:
    server.answer = embedded
    numbers = "1, 2, 3, 4, 5, 6,"
    greedy = Sampling(0.0, max_tokens=6)
    ask = (Message("user", "Count from 1 to 20 with commas."), Message("assistant", numbers))

    async def body() -> list[str]:
        async with engine_of(server, timeout=60.0) as engine:
            assert await engine.proposal_form(ALL) == ("completion", "there is /completions")
            raw = await engine.sample(Request("proposal", greedy, 1, prompt=numbers))
            server.answer = chat_only(embedded)
            form, words = await engine.proposal_form(ALL)
            assert (form, words) == ("prefill", f"{server.url} has no /completions (404 Not Found: Not Found)")
            begun = await engine.sample(Request("proposal", greedy, 1, messages=ask))
            return [raw.text, begun.text]

    texts = asyncio.run(body())
    assert all("7, 8" in text for text in texts)
    # llama-server gives the beginning back; the engine does not
    assert not texts[1].startswith("1")


@pytest.mark.embedded
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chat only", "extra body", "thinks in text", "thinks apart"])
def test_the_real_model_answers_through_every_kind_of_server(server: HttpEngine, embedded: Answer, kind: str) -> None:
    server.answer = {
        "chat only": chat_only(embedded),
        "extra body": needs_extra_body(embedded),
        "thinks in text": thinks_in_text(embedded),
        "thinks apart": thinks_apart(embedded),
    }[kind]
    extra = {"chat_template_kwargs": {"enable_thinking": False}} if kind == "extra body" else {}
    engine = engine_of(server, timeout=60.0, slots=2, extra_body=extra)
    few = Sampling(max_tokens=8)
    requests = [replace(chat("Say hello.", seed), sample=seed, sampling=few) for seed in range(2)]
    replies = answers(engine, *requests, together=2)
    assert all(isinstance(reply, Completion) and reply.text for reply in replies)
    thought = {reply.reasoning for reply in replies if isinstance(reply, Completion)}
    assert thought == ({"Let me think."} if "thinks" in kind else {None})
    assert not [reply for reply in replies if isinstance(reply, Completion) and "<think>" in reply.text]
    if extra:
        assert all(asked.body["chat_template_kwargs"] == {"enable_thinking": False} for asked in server.asked)
        with pytest.raises(FittestError, match="chat_template_kwargs is required"):
            tried(engine_of(server), ROLES[:1])
