"""Outages of servers: no answer is lost to one, none lasts for ever, and what one has cost is asked again."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web
from click.testing import CliRunner

from fittest.evo.backends import servers
from fittest.evo.backends.openai import OpenAI
from fittest.evo.backends.openai_format import completions_of, reply_of
from fittest.evo.backends.servers import Trouble
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.feeder import Feeder
from fittest.evo.records import Completion, Failure
from fittest.fitness.reference.served import _read_of as read_logprobs
from fittest.fitness.rewards.http import HttpReward
from fittest.runs import build, parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.progress import Meter, PlainProgress
from tests.conftest import null_tables
from tests.http_engine import (
    Answer,
    Asked,
    HttpEngine,
    answers,
    chat,
    engine_of,
    error,
    first,
    refuses,
    reply,
    sampled,
    says,
    well,
)  # fmt: skip

PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OpenAI.__init__.__kwdefaults__, "patience", 0.5)


def tables_of(server: HttpEngine, **sections: dict[str, Any]) -> dict[str, Any]:
    tables = null_tables(**sections)
    tables["engine"] |= {"kind": "openai", "model": "m", "base_url": server.url, "timeout": 5.0}
    return tables


def failures_in(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        return [reason for (reason,) in journal.execute("SELECT failure FROM replies WHERE failure IS NOT NULL")]


def answers_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        (number,) = journal.execute("SELECT count(*) FROM replies").fetchone()
    return int(number)


def whole(folder: Path) -> None:
    """What was forgotten must not look like damage."""
    result = CliRunner().invoke(main, ["check", str(folder), "--deep"])
    assert result.exit_code == 0, result.output


def same_tables(one: Path, other: Path) -> bool:
    """Generations and survivors; the name of the engine stands in neither."""
    names = ["survivors.parquet", "logbook.parquet", *(f"generations/{number:04d}.parquet" for number in range(3))]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("header", [{"Retry-After": "0"}, {"Retry-After": "-3"}, {"Retry-After": PAST}, {}])
def test_a_busy_server_is_never_the_last_word(server: HttpEngine, header: dict[str, str]) -> None:
    server.answer = first(150, refuses(429, "busy", **header))
    assert isinstance(answers(engine_of(server, slots=1, patience=30.0), chat())[0], Completion)
    assert len(server.asked) == 151


@pytest.mark.parametrize("header", ["0", "-3", PAST, "0.0001"])
def test_a_server_that_asks_for_no_time_gets_a_pause_that_grows(
    server: HttpEngine, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[int] = []

    def pause(times: int, longest: float = 0.0) -> float:
        complaints.append(times)
        return 0.2

    monkeypatch.setattr(servers, "pause", pause)
    server.answer = first(3, refuses(503, "busy", **{"Retry-After": header}))
    assert isinstance(answers(engine_of(server), chat())[0], Completion)
    assert complaints == ([0, 0, 0] if header == "0.0001" else [1, 2, 3])
    times = [asked.at for asked in server.asked]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.19


async def the_second_is_told_to_wait(asked: Asked) -> web.StreamResponse:
    if asked.number == 1:
        return error(429, "later", **{"Retry-After": "1e9"})
    if asked.number == 0:
        await asyncio.sleep(0.3)  # it answers after the other was refused: the server is well, and paused
    return await well(asked)


def test_a_server_that_asks_for_thirty_years_is_asked_again_and_that_is_said(server: HttpEngine) -> None:
    server.answer = the_second_is_told_to_wait
    engine = engine_of(server, slots=2, patience=1.0)
    began = time.monotonic()
    assert all(isinstance(answer, Completion) for answer in answers(engine, chat("a"), chat("b"), chat("c")))
    assert time.monotonic() - began > 1.0
    assert engine.notes == [
        f"{server.url} asked for a pause of 1e+09 s; it is asked again after 1 s, the longest pause that a server gets"
    ]


@pytest.mark.usefixtures("little_patience")
def test_a_pause_that_was_cut_is_said_once_at_the_terminal_and_in_the_summary(
    server: HttpEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        told = asked.number in (20, 30)
        return error(503, "later", **{"Retry-After": "7200"}) if told else await well(asked)

    server.answer = answer
    result = run(parse_config(tables_of(server)), tmp_path / "run", progress=PlainProgress(4))
    assert sum("asked for a pause of 7200 s" in warning for warning in result.summary["warnings"]) == 1
    assert capsys.readouterr().err.count("asked for a pause of 7200 s") == 1
    assert result.summary["failures"] == {}


def test_progress_says_how_many_requests_wait_for_which_server_and_how_long(server: HttpEngine) -> None:
    evolution = build(parse_config(tables_of(server)), journal=SqliteJournal(":memory:"))
    backend = evolution.feeder.lanes[0].backend
    assert isinstance(backend, OpenAI)
    places = backend._endpoint.servers

    async def body() -> tuple[str, str]:
        (found,) = places.all
        found.paused_until = time.monotonic() + 59.5
        waiting = [asyncio.create_task(places.take(None, samples)) for samples in (1, 2)]
        await asyncio.sleep(0)
        paused = Meter(4).line(evolution)
        found.down = True
        lost = Meter(4).line(evolution)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        return paused, lost

    paused, lost = asyncio.run(body())
    assert f"3 requests wait for {server.url} (60 s more)" in paused
    assert f"3 requests wait for {server.url} (until it answers again)" in lost
    assert "wait" not in Meter(4).line(evolution)


def only_probes(otherwise: Answer) -> Answer:
    """Give single tokens and the answers to trials, and nothing to the run itself."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (well if asked.body["max_tokens"] <= 16 else otherwise)(asked)

    return answer


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses", "little_patience")
@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("how", ["fault", "broken"])
def test_an_outage_that_only_probes_survive_leaves_no_failure_behind(
    server: HttpEngine, tmp_path: Path, slots: int, how: str
) -> None:
    server.answer = only_probes({"fault": refuses(500, "upstream is gone"), "broken": says("{")}[how])
    config = parse_config(tables_of(server, engine={"slots": slots}))
    with pytest.raises(FittestError, match=r"no server has answered.*--resume"):
        run(config, tmp_path / "run")
    assert failures_in(tmp_path / "run") == []
    server.answer = well
    assert run(config, tmp_path / "run", resume=True).summary["failures"] == {}
    run(parse_config(null_tables()), tmp_path / "null")
    assert same_tables(tmp_path / "run", tmp_path / "null")


def until(first: int, refusing: Answer, *, slots: int) -> Answer:
    """Answer, and refuse from a request on; the client has received all answers before the first is refused."""
    received = asyncio.Event()

    async def answer(asked: Asked) -> web.StreamResponse:
        if asked.number < first:
            return await well(asked)
        if asked.number >= first + slots - 1:
            received.set()
        await received.wait()
        return await refusing(asked)

    return answer


async def filters(asked: Asked) -> web.StreamResponse:
    return reply(asked, None, finish_reason="content_filter")


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("how", ["refused", "filtered"])
def test_refusals_that_ended_a_run_are_asked_again(server: HttpEngine, tmp_path: Path, slots: int, how: str) -> None:
    refusing = {"refused": refuses(400, "the quota of this month is used up"), "filtered": filters}[how]

    server.answer = until(61, refusing, slots=slots)
    config = parse_config(tables_of(server, engine={"slots": slots}))
    with pytest.raises(FittestError, match="20 prompts in a row were refused"):
        run(config, tmp_path / "run")
    assert failures_in(tmp_path / "run") == []
    assert answers_in(tmp_path / "run") > 30
    whole(tmp_path / "run")
    server.answer = well
    assert run(config, tmp_path / "run", resume=True).summary["failures"] == {}
    run(parse_config(null_tables()), tmp_path / "null")
    assert same_tables(tmp_path / "run", tmp_path / "null")


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("how", ["refused", "down but for trials"])
def test_rewards_that_were_refused_until_the_run_ended_are_asked_again(
    server: HttpEngine, other: HttpEngine, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HttpReward.__init__.__kwdefaults__, "patience", 0.5)
    refusing = {"refused": refuses(400, "no quota"), "down but for trials": refuses(500, "gone")}[how]

    async def lengths(asked: Asked) -> web.StreamResponse:
        return web.json_response({"rewards": [len(pair["response"]) for pair in asked.body["pairs"]]})

    async def answer(asked: Asked) -> web.StreamResponse:
        trial = asked.body["pairs"][0]["response"] == "Hello."
        return await (lengths if asked.number < 4 or trial else refusing)(asked)

    tables = tables_of(server, reward={"kind": "http", "url": f"{other.url}/rewards", "timeout": 5.0})
    other.answer = answer
    with pytest.raises(FittestError, match=r"20 prompts in a row|no server has answered"):
        run(parse_config(tables), tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "journal.sqlite")) as journal:
        missing = journal.execute("SELECT missing FROM measurements WHERE missing IS NOT NULL").fetchall()
    assert missing == []
    whole(tmp_path / "run")
    other.answer = lengths
    run(parse_config(tables), tmp_path / "run", resume=True)
    run(parse_config(tables), tmp_path / "whole")
    assert same_tables(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "places",
    [
        [{"x": {"logprob": -1.0}}], [{"9" * 30: {"logprob": -1.0}}], [{"1": None}], [{"1": {}}], [{}], [None], ["a"],
        [{"1": {"logprob": "-1"}}], [{"1": {"logprob": math.nan}}], [{"1": {"logprob": 10**400}}],
    ],
)  # fmt: skip
def test_log_probabilities_that_are_none_are_named(places: list[object]) -> None:
    with pytest.raises(RequestFailedError, match="prompt_logprobs"):
        read_logprobs({"prompt_logprobs": [None, *places]})


def test_a_steady_state_run_goes_on_after_refusals_as_if_there_had_been_none(
    server: HttpEngine, tmp_path: Path
) -> None:
    server.answer = until(221, refuses(400, "no"), slots=8)
    # a finished generation tells of its failures, so they are in one that is not finished
    config = parse_config(
        tables_of(server, run={"mode": "steady-state", "generations": 1}, operators={"offspring": 80})
    )
    with pytest.raises(FittestError, match="20 prompts in a row were refused"):
        run(config, tmp_path / "run")
    assert failures_in(tmp_path / "run") == []
    server.answer = well
    result = run(config, tmp_path / "run", resume=True)
    assert (result.summary["failures"], result.summary["stop_reason"]) == ({}, "generations")


def test_a_failure_among_answers_stays_when_the_engine_is_lost(server: HttpEngine) -> None:
    """Only what failed since the last answer may be the outage's."""
    journal = SqliteJournal(":memory:")

    async def answer(asked: Asked) -> web.StreamResponse:
        text = asked.body["messages"][0]["content"]
        return await {"bad": refuses(400, "bad"), "lost": refuses(402, "no credit")}.get(text, well)(asked)

    async def body() -> None:
        async with asyncio.timeout(30), Feeder(engine_of(server, slots=1), journal) as feeder:
            for text in ("a", "bad", "b", "lost"):
                await feeder.ask_all([chat(text)])

    server.answer = answer
    with pytest.raises(BaseExceptionGroup):
        asyncio.run(body())
    assert [failure for (failure,) in journal._db.execute("SELECT failure FROM replies ORDER BY rowid")] == [
        None, "400 Bad Request: bad", None
    ]  # fmt: skip


@pytest.mark.parametrize("count", [2**31, 2**62, 10**30, -1, 1.5, "7", True, math.inf, math.nan, [1], {"a": 1}, None])
def test_a_count_of_tokens_that_can_be_none_is_missing(count: object) -> None:
    usage = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count},
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    choice = {"text": "", "finish_reason": "stop"}
    assert completions_of({"choices": [choice], "usage": usage}) == [Completion("", "stop", 0, 0)]
    assert completions_of({"choices": [choice], "usage": count}) == [Completion("", "stop", 0, 0)]
    usage["prompt_tokens"] = 2**31 - 1
    assert completions_of({"choices": [choice], "usage": usage}) == [Completion("", "stop", 2**31 - 1, 0)]


def test_a_journal_that_holds_impossible_counts_goes_on(server: HttpEngine, tmp_path: Path) -> None:
    stopped = parse_config(tables_of(server, budget={"max_requests": 60}))
    run(stopped, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE replies SET prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?", [2**62] * 3)
        journal.execute("UPDATE replies SET prompt_tokens = -5 WHERE rowid % 2")
    result = run(parse_config(tables_of(server)), tmp_path / "run", resume=True)
    assert result.summary["stop_reason"] == "generations"
    assert 0 < result.summary["prompt_tokens"] < 2**31


@pytest.mark.usefixtures("short_pauses")
def test_a_reply_may_have_the_size_that_is_configured_and_no_other(server: HttpEngine) -> None:
    async def padded(asked: Asked) -> web.StreamResponse:
        return web.json_response(
            {"choices": [{"text": "", "message": {"content": "Hi."}, "finish_reason": "stop"}], "padding": "x" * 2**21}
        )

    server.answer = only_probes(padded)
    found = answers(engine_of(server, max_reply_mib=3), chat("a"), chat("b"))
    assert [reply.text for reply in found if isinstance(reply, Completion)][1] == "Hi."
    found = answers(engine_of(server, slots=1, max_reply_mib=1), chat("b"))
    assert found == [Failure("the reply has more than 1 MiB, the most that max_reply_mib allows (8 tries)")]


def test_packed_replies_are_not_asked_for(server: HttpEngine) -> None:
    sampled(engine_of(server), chat())
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_reply_of_too_many_values_is_not_read() -> None:
    many = b'{"choices": [' + b'{"a":1},' * 2**17 + b"{}]}"
    with pytest.raises(Trouble, match="more than 131072 values"):
        reply_of(many, "choices")
    assert reply_of(many, "choices", most=2**26) is not None
    assert reply_of(b'{"choices": [' + b"9" * 4000 + b"," * 0 + b"]}", "choices", int) is not None
    long = b'{"choices": [' + b", ".join([b"9" * 4000] * 20) + b", -" + b"9" * 4000 + b"]}"
    found = reply_of(long, "choices", float)
    assert found is not None
    assert set(found["choices"]) == {math.inf, -math.inf}


def test_the_commas_of_a_text_are_no_values() -> None:
    text = '1, [2, {"3": ' * 2**15 + "\\"
    content = json.dumps({"choices": [{"text": text}, {"text": text}]}).encode()
    found = reply_of(content, "choices")
    assert found is not None
    assert [choice["text"] for choice in found["choices"]] == [text, text]
    began = time.process_time()
    for rubbish in (b'\\",', b'",', b'"\\",', b"\\,"):
        with pytest.raises(Trouble):
            reply_of(b'{"choices": ["' + rubbish * 2**20, "choices")
    assert time.process_time() - began < 20.0, "a quadratic pattern takes hours"


def test_choices_are_taken_in_the_order_of_their_count_and_each_once() -> None:
    def texts(*choices: tuple[object, str]) -> list[str]:
        given = [{"index": count, "text": text, "finish_reason": "stop"} for count, text in choices]
        return [one.text for one in completions_of({"choices": given}) if isinstance(one, Completion)]

    assert texts((1, "b"), (0, "a"), (2, "c")) == ["a", "b", "c"]
    assert texts((0, "a"), (0, "again"), (1, "b")) == ["a", "b"]
    assert texts((None, "a"), (0, "b")) == texts(("1", "a"), ("0", "b")) == texts((True, "a"), (0, "b")) == ["a", "b"]
    assert texts((7, "a")) == ["a"]


def test_what_was_thought_before_a_short_answer_may_be_long(server: HttpEngine) -> None:
    message = {"content": "4", "reasoning_content": "hm " * 15_000}
    server.answer = says({"choices": [{"message": message, "finish_reason": "stop"}]})
    (found,) = answers(engine_of(server), replace(chat(), sampling=replace(chat().sampling, max_tokens=8)))
    assert isinstance(found, Completion)
    assert found.text == "4"
    assert len(server.asked) == 1


def test_a_text_that_no_model_writes_is_asked_for_again(server: HttpEngine) -> None:
    server.answer = first(1, says({"choices": [{"message": {"content": "x" * 70_000}, "finish_reason": "stop"}]}))
    (found,) = answers(engine_of(server), chat())
    assert isinstance(found, Completion)
    assert len(found.text) < 1000
    server.answer = says({"choices": [{"message": {"content": "x" * 70_000}, "finish_reason": "stop"}]})
    (found,) = answers(engine_of(server, omit=("max_tokens",)), chat())
    assert isinstance(found, Completion)
