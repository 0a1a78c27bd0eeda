"""Whole runs whose answers, proposals and judgments come from different servers."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
from click.testing import CliRunner

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from tests.conftest import null_tables
from tests.http_engine import Answer, Asked, HttpEngine, error, reply, well

VOTES = 10


async def votes(asked: Asked) -> web.StreamResponse:
    """A judge whose score depends on the text alone."""
    digest = hashlib.sha256(json.dumps(asked.body["messages"]).encode()).digest()
    return reply(asked, f"Score: {digest[0] % 11}")


async def rates(asked: Asked) -> web.StreamResponse:
    """A reward service; the reward is the response's length."""
    return web.json_response({"rewards": [len(pair["response"]) / 100 for pair in asked.body["pairs"]]})


def dies_at(number: int, server: HttpEngine, answer: Answer) -> Answer:
    """Break the connection of one request and of all others that are in flight, as a killed server does."""

    async def die(asked: Asked) -> web.StreamResponse:
        if asked.number == number:
            server.begin_to_die()
        return await answer(asked)

    return die


def on(server: HttpEngine, model: str, **more: Any) -> dict[str, Any]:
    return {"kind": "openai", "model": model, "base_url": server.url, "slots": 4, "timeout": 10.0, **more}


def asked_twice(path: Path) -> list[str]:
    """Keys that were issued again although their reply was in the journal."""
    with closing(sqlite3.connect(path)) as database:
        return [
            key
            for (key,) in database.execute(
                "SELECT issued.key FROM issued JOIN replies USING (key, sample)"
                " WHERE issued.session = replies.session AND issued.at > replies.at"
                " OR issued.session > replies.session"
            )
        ]


@pytest.fixture
def third() -> Any:
    with HttpEngine() as server:
        yield server


def roles(policy: HttpEngine, proposer: HttpEngine, reward: dict[str, Any]) -> dict[str, Any]:
    tables = null_tables(run={"generations": 1}, pool={"limit": 12}, operators={"offspring": 12})
    tables["engine"] = {**tables["engine"], **on(policy, "small")}
    return {**tables, "proposer": on(proposer, "large"), "reward": reward}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_three_servers_have_a_role_each_and_one_is_killed_and_restarted(
    killed: int, server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = votes
    servers = [server, other, third]
    victim = servers[killed]
    victim.answer = dies_at(10, victim, victim.answer)
    judge = {"kind": "judge", "votes": VOTES, "engine": on(third, "judge")}
    tables = roles(server, other, judge)
    tables["prices"] = {
        "completion_tokens": 1.0,
        "proposer": {"completion_tokens": 2.0},
        "judge": {"engine_hour": 1.0},
    }

    import threading

    def restart() -> None:
        victim._thread.join()
        victim.answer = votes if victim is third else well
        victim.start()

    again = threading.Thread(target=restart)
    again.start()
    result = run(parse_config(tables), tmp_path / "run")
    again.join()

    assert result.summary["stop_reason"] == "generations"
    assert result.summary["failures"] == {}
    assert asked_twice(tmp_path / "run" / "journal.sqlite") == []
    spending = json.loads((tmp_path / "run" / "spending.json").read_text())
    rows = {row["roles"][0]: row for row in spending["engines"]}
    assert [row["roles"] for row in spending["engines"]] == [["policy"], ["proposer"], ["judge"]]
    assert [row["engine"] for row in spending["engines"]] == ["openai:small", "openai:large", "openai:judge"]
    assert rows["policy"]["requests"] == result.summary["rollouts"] + result.summary["rollouts_retest"]
    assert rows["proposer"]["requests"] == 12
    assert rows["judge"]["requests"] % VOTES == 0
    assert rows["judge"]["requests"] > 0
    assert sum(row["requests"] for row in rows.values()) == spending["total"]["requests"]
    assert sum(row["cost"] for row in rows.values()) == pytest.approx(spending["total"]["cost"], abs=1e-5)
    assert all(0 <= row["idle_fraction"] <= 1 for row in rows.values())
    models = [Counter(asked.body["model"] for asked in one.asked) for one in servers]
    assert [list(found) for found in models] == [["small"], ["large"], ["judge"]]
    assert {row["engine"] for row in pl.read_parquet(tmp_path / "run" / "responses").iter_rows(named=True)} == {
        "openai:small"
    }


@pytest.mark.usefixtures("short_pauses")
def test_a_reward_service_in_the_judges_place_is_killed_and_restarted(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = dies_at(5, third, rates)

    def restart() -> None:
        third._thread.join()
        third.answer = rates
        third.start()

    again = threading.Thread(target=restart)
    again.start()
    address = third.url.removesuffix("/v1")
    result = run(
        parse_config(roles(server, other, {"kind": "http", "url": f"{address}/rate", "name": "length"})),
        tmp_path / "run",
    )
    again.join()
    assert result.summary["stop_reason"] == "generations"
    assert result.summary["failures"] == {}
    assert asked_twice(tmp_path / "run" / "journal.sqlite") == []
    rewards = pl.read_parquet(tmp_path / "run" / "responses")
    assert rewards["reward"].to_list() == pytest.approx([len(text) / 100 for text in rewards["response"]])
    spending = json.loads((tmp_path / "run" / "spending.json").read_text())
    assert [row["roles"] for row in spending["engines"]] == [["policy", "judge"], ["proposer"]]


def test_a_run_of_several_servers_is_resumed_and_replayed_to_the_same_tables(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = votes
    tables = roles(server, other, {"kind": "judge", "votes": 2, "engine": on(third, "judge")})
    whole = run(parse_config(tables), tmp_path / "whole")
    tables["budget"] = {"max_requests": 60}
    cut = run(parse_config(tables), tmp_path / "cut")
    assert cut.summary["stop_reason"] == "max_requests"
    tables["budget"] = {"max_requests": 0}
    resumed = run(parse_config(tables), tmp_path / "cut", resume=True)
    assert resumed.survivors.equals(whole.survivors)
    replayed = {**tables, "engine": {**tables["engine"], "kind": "replay", "path": f"{tmp_path}/whole/journal.sqlite"}}
    for key in ("model", "base_url", "timeout"):
        del replayed["engine"][key]
    del replayed["proposer"]
    replayed["reward"] = {"kind": "judge", "votes": 2}
    asked = len(server.asked) + len(other.asked) + len(third.asked)
    again = run(parse_config(replayed), tmp_path / "replayed")
    assert asked == len(server.asked) + len(other.asked) + len(third.asked)
    assert again.survivors.drop("reward_id").equals(whole.survivors.drop("reward_id"))


def test_each_role_has_a_system_prompt_of_its_own(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = votes
    tables = roles(server, other, {"kind": "judge", "votes": 2, "engine": on(third, "judge", system="Be strict.")})
    tables["engine"]["system"] = "Be brief."
    tables["proposer"]["system"] = "Be new."
    run(parse_config(tables), tmp_path / "run")

    def systems(one: HttpEngine) -> set[str]:
        return {asked.body["messages"][0]["content"].split("\n")[0] for asked in one.asked if asked.number > 8}

    assert systems(server) == {"Be brief."}
    assert systems(other) == {"Be new."}
    assert systems(third) == {"Be strict."}
    (row, *_) = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert row["prompt"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("role", ["engine", "proposer", "reward.engine"])
def test_a_dead_server_of_any_role_is_named_at_once_by_check_run_and_plan(
    role: str, server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = votes
    tables = roles(server, other, {"kind": "judge", "votes": 2, "engine": on(third, "judge")})
    dead = {"engine": server, "proposer": other, "reward.engine": third}[role]
    dead.kill()
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tables))
    for command in (["check"], ["plan"], ["run", "--out", str(tmp_path / "out")]):
        result = CliRunner().invoke(main, [*command, str(tmp_path / "run.toml")])
        assert result.exit_code == 2, result.output
        assert dead.url in result.output.splitlines()[-1]
    assert not (tmp_path / "out" / "run.toml").exists()


def test_a_refusal_in_one_role_names_the_keys_of_that_role(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    async def no_such_model(asked: Asked) -> web.StreamResponse:
        return error(404, "The model `judge` does not exist.")

    third.answer = no_such_model
    tables = roles(server, other, {"kind": "judge", "votes": 2, "engine": on(third, "judge")})
    with pytest.raises(FittestError, match=r"reward\.engine\.model"):
        run(parse_config(tables), tmp_path / "run")


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"proposer": {"kind": "null", "sampling": {"n": 4}}}, "proposer: sampling is for answers"),
        ({"prices": {"proposer": {"engine_hour": 1.0}}}, "there is no [proposer]"),
        ({"proposer": {"kind": "null", "base_url": "http://h/v1"}}, "does not take base_url"),
        ({"reward": {"kind": "head", "engine": {"kind": "null"}}}, "does not take engine"),
        ({"proposer": {"kind": "null", "system": "x"}, "operators": {"form": "completion"}}, "proposer.system"),
    ],
)
def test_a_mistake_about_roles_is_told_in_one_line(tables: dict[str, Any], words: str) -> None:
    with pytest.raises(FittestError) as caught:
        parse_config({"pool": {"path": "builtin:starter"}, **tables})
    assert words in str(caught.value)


def test_plan_and_status_show_the_engines_apart(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    third.answer = votes
    tables = roles(server, other, {"kind": "judge", "votes": 2, "engine": on(third, "judge")})
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tables))
    planned = CliRunner().invoke(main, ["plan", str(tmp_path / "run.toml")])
    assert planned.exit_code == 0, planned.output
    for line in ("proposals, by large", "answers to offspring, by small", "judgments of answers, by judge"):
        assert line in planned.output
    assert CliRunner().invoke(main, ["run", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")]).exit_code == 0
    status = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
    for line in ("policy: openai:small", "proposer: openai:large", "judge: openai:judge"):
        assert line in status


def test_a_dead_policy_is_named_while_the_proposer_is_busy(other: HttpEngine, tmp_path: Path) -> None:
    async def busy(asked: Asked) -> web.StreamResponse:
        return error(429, "slow down")

    other.answer = busy
    tables = roles(HttpEngine(port=1), other, {"kind": "null"})
    began = time.monotonic()
    with pytest.raises(FittestError, match=r"^http://127\.0\.0\.1:1/v1 gives no token: Cannot connect"):
        run(parse_config(tables), tmp_path / "run")
    assert time.monotonic() - began < 100
