"""Whole runs against servers: mistakes are named before anything is spent, dead servers end it resumable, no leak."""

from __future__ import annotations

import sqlite3
import time
import tomllib
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
from click.testing import CliRunner, Result

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends import openai_forms
from fittest.evo.backends.openai import OpenAI
from fittest.evo.errors import FittestError
from fittest.evo.records import Request
from fittest.runs import Config, build, load_config, parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.progress import Meter
from tests.conftest import null_tables
from tests.http_engine import Asked, HttpEngine, chat_only, error, hang, reply, well

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OpenAI.__init__.__kwdefaults__, "patience", 0.5)


def tables_of(*servers: HttpEngine, **engine: Any) -> dict[str, Any]:
    tables = null_tables()
    address = {"kind": "openai", "model": "m", "base_url": [server.url for server in servers]}
    tables["engine"] |= {**address, "timeout": 10.0, **engine}
    return tables


def config_of(*servers: HttpEngine, **engine: Any) -> Config:
    return parse_config(tables_of(*servers, **engine))


def fittest(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder: Path, tables: dict[str, Any]) -> Path:
    (folder / "run.toml").write_text(tomli_w.dumps(tables))
    return folder / "run.toml"


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.output.startswith("fittest: ")
    assert result.output.count("\n") == 1, result.output
    return result.output


def tables_in(folder: Path) -> dict[str, object]:
    """All tables of a run; responses less the engine that gave them."""
    tables: dict[str, object] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.parent.name == "responses":
            tables[name] = pl.read_parquet(file).drop("engine").rows()
        elif file.suffix in (".parquet", ".jsonl"):
            tables[name] = file.read_bytes()
    return tables


@pytest.mark.usefixtures("short_pauses")
def test_a_run_on_servers_is_the_run_on_the_same_model_anywhere(
    server: HttpEngine, other: HttpEngine, tmp_path: Path
) -> None:
    """The servers answer as the null engine does, whose run is the yardstick; they take turns at being unwell."""

    async def unwell(asked: Asked) -> web.StreamResponse:
        return error(500) if asked.number % 7 == 3 else await well(asked)

    server.answer = unwell
    result = run(config_of(server, other), tmp_path / "servers")
    assert result.summary["stop_reason"] == "generations"
    assert result.summary["failures"] == {}
    assert server.asked
    assert other.asked
    run(parse_config(null_tables()), tmp_path / "null")
    assert tables_in(tmp_path / "servers") == tables_in(tmp_path / "null")


def test_the_key_is_nowhere_in_a_run_folder(
    server: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def telltale(asked: Asked) -> web.StreamResponse:
        sent = asked.headers["Authorization"]
        if asked.body["seed"] % 5 == 0 and asked.body["max_tokens"] > 16:  # not in the trials before the run
            return error(400, f"no {sent}")
        if asked.body["seed"] % 5 == 1:
            return reply(asked, None, finish_reason=f"bad {sent}")
        return reply(asked, f"You sent {sent} with seed {asked.body['seed']}, and which was it?")

    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = telltale
    result = run(config_of(server, api_key_env="SOME_KEY"), tmp_path / "run")
    assert any("no Bearer [key]" in reason for reason in result.summary["failures"])
    assert any("bad Bearer [key]" in reason for reason in result.summary["failures"])
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 8
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    assert 'api_key_env = "SOME_KEY"' in (tmp_path / "run" / "run.toml").read_text()
    responses = result.survivors.select("chosen", "rejected").rows()
    assert any("You sent Bearer [key]" in text for row in responses for text in row)


@pytest.mark.usefixtures("little_patience")
def test_the_key_is_in_no_error_of_a_run(server: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    config = written(tmp_path, tables_of(server, api_key_env="SOME_KEY", timeout=0.3))
    for status in (401, 402, 404, 500, 307):

        async def telltale(asked: Asked, status: int = status) -> web.StreamResponse:
            sent = asked.headers["Authorization"]
            response = error(status, f"no {sent}", Location=f"/?{sent}")
            response.set_status(status, f"No {sent}")
            return response

        server.answer = telltale
        message = refused(fittest("run", config, "--out", tmp_path / f"run{status}"))
        assert KEY not in message
        assert "Bearer [key]" in message
        files = [file for file in (tmp_path / f"run{status}").rglob("*") if file.is_file()]
        assert not [file for file in files if KEY.encode() in file.read_bytes()]


@pytest.mark.usefixtures("little_patience")
def test_a_run_whose_servers_all_die_goes_on_elsewhere_without_asking_twice(
    server: HttpEngine, other: HttpEngine, tmp_path: Path
) -> None:
    async def dying(asked: Asked) -> web.StreamResponse:
        if len(server.asked) + len(other.asked) > 100:
            server.begin_to_die()
            other.begin_to_die()
        return await well(asked)

    server.answer = other.answer = dying
    out = tmp_path / "run"
    config = written(tmp_path, tables_of(server, other))
    ended = fittest("run", config, "--out", out)
    assert ended.exit_code == 2, ended.output
    message = ended.output.splitlines()[-1]
    assert message.startswith("fittest: ")
    assert f"{server.url} (" in message
    assert f"{other.url} (" in message
    assert f"go on with: fittest run {out} --resume" in message
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        (kept,) = journal.execute("SELECT count(*) FROM replies").fetchone()
        assert 50 < kept <= 100 + 8
        assert journal.execute("SELECT count(*) FROM replies WHERE failure IS NOT NULL").fetchone() == (0,)
    with HttpEngine() as third:
        result = fittest("run", out, "--resume", "--set", f"engine.base_url={third.url}")
        assert result.exit_code == 0, result.output
        fresh = sum(asked.body["max_tokens"] > 16 for asked in third.asked)  # not those that only try it out
    run(parse_config(null_tables()), tmp_path / "null")
    assert tables_in(out) == tables_in(tmp_path / "null")
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        (replies,) = journal.execute("SELECT count(*) FROM replies").fetchone()
    assert fresh == replies - kept
    assert load_config(out / "run.toml").engine.base_url == (third.url,)


def test_a_run_with_keys_of_its_own_goes_on_with_other_headers_and_not_with_another_body(
    server: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_ORG", "organisation-0123456789")
    keys: dict[str, Any] = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}, "omit": ["top_p"]}
    headers = {"headers_env": {"X-Org": "SOME_ORG"}, "extra_query": {"api-version": "1"}}
    run(config_of(server, **keys, **headers), tmp_path / "run")
    assert {asked.headers["X-Org"] for asked in server.asked} == {"organisation-0123456789"}
    assert {asked.request.query["api-version"] for asked in server.asked} == {"1"}
    assert not [
        file for file in (tmp_path / "run").rglob("*") if file.is_file() and b"organisation" in file.read_bytes()
    ]
    assert load_config(tmp_path / "run" / "run.toml").engine.extra_body == keys["extra_body"]
    again = run(config_of(server, **keys), tmp_path / "run", resume=True)
    assert again.summary["stop_reason"] == "generations"
    for other in ({"omit": []}, {"extra_body": {}}, {"token_limit": "max_completion_tokens"}):
        with pytest.raises(FittestError, match=rf"engine\.{next(iter(other))}"):
            run(config_of(server, **keys | other), tmp_path / "run", resume=True)


def test_a_run_folder_from_before_these_keys_goes_on(server: HttpEngine, tmp_path: Path) -> None:
    run(config_of(server), tmp_path / "run")
    file = tmp_path / "run" / "run.toml"
    tables = tomllib.loads(file.read_text())
    for key in ("headers_env", "extra_query", "extra_body", "omit", "token_limit"):
        del tables["engine"][key]
    file.write_text(tomli_w.dumps(tables))
    asked = len(server.asked)
    assert run(config_of(server), tmp_path / "run", resume=True).summary["stop_reason"] == "generations"
    assert not [late for late in server.asked[asked:] if late.body["max_tokens"] > 16]


def test_a_server_that_refuses_several_samples_is_named_before_a_run_begins(
    server: HttpEngine, tmp_path: Path
) -> None:
    async def one_at_a_time(asked: Asked) -> web.StreamResponse:
        words = "Unsupported value: 'n' does not support 4 with this model."
        return error(400, words) if asked.body.get("n", 1) > 1 else await well(asked)

    server.answer = one_at_a_time
    with pytest.raises(FittestError, match=r'set engine\.omit = \["n"\]'):
        run(config_of(server, samples_per_request=4), tmp_path / "run")
    assert not (tmp_path / "run" / "journal.sqlite").exists()
    result = run(config_of(server, samples_per_request=4, omit=["n"]), tmp_path / "run")
    assert result.summary["failures"] == {}


def test_a_form_that_was_only_assumed_is_found_anew_when_the_run_goes_on(
    server: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost on a gateway that holds the trials until the model is loaded, and takes chats alone."""
    monkeypatch.setattr(openai_forms, "_TRIAL_SECONDS", 0.2)

    async def loading(asked: Asked) -> web.StreamResponse:
        return await (hang if asked.number == 0 else chat_only())(asked)

    server.answer = loading
    # the trial of the proposer is not answered in time either
    monkeypatch.setattr(OpenAI, "try_out", _nothing_found)
    with pytest.raises(FittestError, match=r'404 .*set \[operators\] form = "chat"'):
        run(config_of(server), tmp_path / "run")
    result = run(config_of(server), tmp_path / "run", resume=True)
    assert result.summary["failures"] == {}
    with SqliteJournal(tmp_path / "run" / "journal.sqlite", read_only=True) as journal:
        assert journal.meta("proposal_form") == "prefill"


async def _nothing_found(engine: OpenAI, requests: Sequence[Request] = ()) -> list[str]:
    return []


def test_a_refused_parameter_ends_a_run_before_it_leaves_a_folder(server: HttpEngine, tmp_path: Path) -> None:
    async def modern(asked: Asked) -> web.StreamResponse:
        for name, instead in (("max_tokens", "; use 'max_completion_tokens' instead"), ("temperature", "")):
            if name in asked.body:
                return error(400, f"Unsupported parameter: '{name}' is not supported with this model{instead}.")
        asked.body["max_tokens"] = asked.body["max_completion_tokens"]
        return await well(asked)

    server.answer = modern
    config = written(tmp_path, tables_of(server))
    told = refused(fittest("run", config, "--out", tmp_path / "out"))
    assert 'set engine.token_limit = "max_completion_tokens"' in told
    told = refused(
        fittest("run", config, "--out", tmp_path / "out", "--set", "engine.token_limit=max_completion_tokens")
    )
    assert 'set engine.omit = ["temperature"]' in told
    assert not (tmp_path / "out" / "run.toml").exists()
    mended = config_of(server, token_limit="max_completion_tokens", omit=["temperature"])
    assert run(mended, tmp_path / "out").summary["failures"] == {}


def test_another_model_on_the_same_server_is_another_run(server: HttpEngine, tmp_path: Path) -> None:
    run(config_of(server), tmp_path / "run")
    with pytest.raises(FittestError, match=r"engine\.model was 'm', now 'n'"):
        run(config_of(server, model="n"), tmp_path / "run", resume=True)


def test_a_server_that_is_not_there_is_named_before_a_run_begins(tmp_path: Path) -> None:
    nowhere = HttpEngine(port=1)
    began = time.monotonic()
    with pytest.raises(FittestError, match=r"127\.0\.0\.1:1/v1 gives no token: Cannot connect"):
        run(config_of(nowhere), tmp_path / "run")
    assert time.monotonic() - began < 100
    assert not (tmp_path / "run" / "run.toml").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_server_that_is_not_there_beside_another_is_named_before_anything_is_drawn(
    command: str, server: HttpEngine, tmp_path: Path
) -> None:
    tables = tables_of(server)
    tables["engine"]["base_url"].append("http://127.0.0.1:1/v1")
    options = ["--out", tmp_path / "out"] if command == "run" else []
    said = fittest(command, written(tmp_path, tables), *options).stderr.splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("generation 0"))
    assert any(line.startswith("warning: http://127.0.0.1:1/v1 gives no token:") for line in said[:first]), said


def test_check_asks_each_server_for_one_token(server: HttpEngine, other: HttpEngine, tmp_path: Path) -> None:
    config = written(tmp_path, tables_of(server, other))
    checked = fittest("check", config)
    assert checked.exit_code == 0, checked.output
    assert f"servers of the policy: {server.url}, {other.url}\n" in checked.output
    assert "engine: openai:m\n" in checked.output
    for at in (server, other):
        # whether it continues a text, and one request of each role
        assert [asked.body["max_tokens"] for asked in at.asked] == [16, 16, 16]
        assert [asked.path for asked in at.asked].count("/v1/chat/completions") == 1
    other.kill()
    server.kill()
    assert f"{other.url} gives no token: Cannot connect" in refused(fittest("check", config))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"base_url": "http://a/v1"}, "needs model"),
        ({"model": "m"}, "and base_url, such as"),
        ({"model": "m", "base_url": []}, "and base_url, such as"),
        ({"model": "m", "base_url": "localhost:8000/v1"}, '"localhost:8000/v1" is no address of a server'),
        ({"model": "m", "base_url": ["http://a/v1", "ftp://b"]}, '"ftp://b" is no address of a server'),
        ({"model": "m", "base_url": "http://a/v1/chat/completions"}, "must end before /chat/completions"),
        ({"model": "m", "base_url": ["http://a/v1", "http://a/v1/"]}, "names a server twice"),
        ({"model": "m", "base_url": "http://a/v1", "timeout": 0}, "engine.timeout = 0"),
        ({"model": "m", "base_url": "http://a/v1", "context": 99}, 'engine kind "openai" does not take context'),
        (
            {"model": "m", "base_url": "http://a/v1", "api_key_env": "ABSENT_"},
            "engine.api_key_env: the environment variable ABSENT_ is not set",
        ),
        (
            {"model": "m", "base_url": "http://a/v1", "headers_env": {"X-Org": "ABSENT_"}},
            "engine.headers_env: the environment variable ABSENT_ is not set",
        ),
        (
            {"model": "m", "base_url": "http://a/v1", "headers_env": {"X Org": "A"}},
            "must be a table of headers and variables",
        ),
        ({"model": "m", "base_url": "http://a/v1", "headers_env": {"Host": "A"}}, "Host is set by HTTP itself"),
        (
            {"model": "m", "base_url": "http://a/v1", "api_key_env": "A", "headers_env": {"authorization": "B"}},
            "headers_env.authorization is set by api_key_env",
        ),
        ({"model": "m", "base_url": "http://a/v1", "extra_body": {"model": "n"}}, "extra_body.model is set by model"),
        (
            {"model": "m", "base_url": "http://a/v1", "extra_body": {"temperature": 1}},
            "extra_body.temperature is set by the sampling of each role",
        ),
        (
            {"model": "m", "base_url": "http://a/v1", "extra_body": {"n": 2}},
            "extra_body.n is set by samples_per_request",
        ),
        (
            {
                "model": "m",
                "base_url": "http://a/v1",
                "token_limit": "max_completion_tokens",
                "extra_body": {"max_completion_tokens": 2},
            },
            "extra_body.max_completion_tokens is set by token_limit",
        ),
        (
            {"model": "m", "base_url": "http://a/v1", "extra_body": {"day": date(2026, 1, 1)}},
            "extra_body holds a value that JSON or TOML has no word for",
        ),
        (
            {"model": "m", "base_url": "http://a/v1", "token_limit": "top_p"},
            'token_limit "top_p" is no name of a limit',
        ),
        ({"model": "m", "base_url": "http://a/v1", "omit": ["model"]}, "engine.omit.0 = 'model'"),
        ({"kind": "null", "omit": ["seed"]}, 'engine kind "null" does not take omit'),
    ],
)
def test_a_wrong_engine_section_is_named(engine: dict[str, Any], message: str, tmp_path: Path) -> None:
    tables = null_tables()
    tables["engine"] = {"kind": "openai", **engine}
    assert message in refused(fittest("check", written(tmp_path, tables)))


@pytest.mark.parametrize(
    "engine",
    [
        {"api_key_env": KEY},
        {"base_url": f"http://me:{KEY}@a/v1"},
        {"base_url": f"http://a/v1?key={KEY}"},
        {"base_url": f"me:{KEY}@a/v1"},
        {"headers_env": {"X-Org": KEY}},
        {"extra_query": {"api-key": KEY}},
        {"extra_query": {"apikey": KEY}},
        {"extra_query": {"subscriptionKey": KEY}},
        {"extra_body": {"accessToken": KEY}},
        {"extra_body": {"api_key": KEY}},
        {"extra_body": {"tools": [{"headers": {"Authorization": KEY}}]}},
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_repeated(engine: dict[str, Any], tmp_path: Path) -> None:
    tables = null_tables()
    tables["engine"] = {"kind": "openai", "model": "m", "base_url": "http://a/v1", **engine}
    message = refused(fittest("run", written(tmp_path, tables), "--out", tmp_path / "out"))
    assert "environment variable" in message
    assert KEY not in message
    assert not (tmp_path / "out" / "run.toml").exists()


@pytest.mark.parametrize(
    "override",
    [
        f"engine.api_key_env={KEY}",
        f"engine.base_url=https://me:{KEY}@a/v1",
        f"engine.api_key={KEY}",
        f"engine.model.api_key={KEY}",
        f"engine.api_key_env:{KEY}",
        f"key={KEY}",
    ],
)
def test_a_key_on_the_command_line_is_refused_and_not_repeated(override: str, tmp_path: Path) -> None:
    tables = null_tables()
    tables["engine"] = {"kind": "openai", "model": "m", "base_url": "http://a/v1"}
    message = refused(fittest("check", written(tmp_path, tables), "--set", override))
    assert f"--set {override.partition('=')[0]}:" in message or "without =" in message
    assert KEY not in message


def test_a_model_on_a_server_is_a_name_whatever_files_are_here(server: HttpEngine, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert load_config(written(tmp_path, tables_of(server))).engine.model == "m"


def test_that_a_server_counts_no_tokens_is_said(server: HttpEngine, other: HttpEngine, tmp_path: Path) -> None:
    async def uncounted(asked: Asked) -> web.StreamResponse:
        choice = {"finish_reason": "stop", "message": {"content": f"Answer {asked.number}."}}
        return web.json_response({"choices": [choice]})

    server.answer = uncounted
    said = {}
    for name, at in (("uncounted", server), ("counted", other)):
        tables = tables_of(at) | {"run": {"generations": 0}, "budget": {"max_tokens": 5000}}
        said[name] = "\n".join(run(parse_config(tables), tmp_path / name).summary["warnings"])
    assert "the engine counts no tokens: caps on tokens" in said["uncounted"]
    assert "counts no tokens" not in said["counted"]


def test_an_outage_is_seen_in_the_line_of_progress(server: HttpEngine) -> None:
    evolution = build(parse_config(tables_of(server)), journal=SqliteJournal(":memory:"))
    backend = evolution.feeder.lanes[0].backend
    assert isinstance(backend, OpenAI)
    assert "no server answers" not in Meter(4).line(evolution)
    for found in backend._endpoint.servers.all:
        found.down, found.last_words = True, "connection refused"
    assert f"no server answers, asked again and again: {server.url} (connection refused)" in Meter(4).line(evolution)
