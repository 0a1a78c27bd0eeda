"""A reward of any HTTP service: pairs go out in batches, numbers come back, an outage is waited out."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web
from click.testing import CliRunner

from fittest.evo.errors import EngineLostError, FittestError
from fittest.evo.records import Missing
from fittest.fitness.rewards.http import HttpReward
from fittest.runs import run
from fittest.runs.cli import main
from fittest.runs.config import parse_config
from tests.conftest import null_tables
from tests.http_engine import Answer, Asked, HttpEngine, close, error, half_a_body, hang, refuses, says
from tests.runs.test_crash import tables_of

pytestmark = pytest.mark.usefixtures("short_pauses")

EXAMPLE = {"prompt": "Say hello.", "response": "Hello."}
KEY = "sk-very-secret-0123456789"
PAIRS = [("How?", "So."), ("How?", ""), ("Why?", "Because of it."), ("Why?", "null"), ("Who?", "NaN")]
REWARDS = [3, 0, 14, None, math.nan]


def address(server: HttpEngine, path: str = "/rewards") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def reward_of(*at: HttpEngine, **settings: Any) -> HttpReward:
    return HttpReward(url=[address(server) for server in at], **{"patience": 2.0, "timeout": 2.0} | settings)


def scores(reward: HttpReward, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Any]:
    async def body() -> list[Any]:
        async with asyncio.timeout(30):
            return await reward.score([prompt for prompt, _ in pairs], [response for _, response in pairs])

    return asyncio.run(body())


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Equality in which NaN equals NaN."""
    return repr(found) == repr([float(one) if isinstance(one, int) else one for one in expected])


async def lengths(asked: Asked) -> web.StreamResponse:
    """The contract, in four lines: the reward is the response's length, or what the response says."""
    named: dict[str, float | None] = {"null": None, "NaN": math.nan}
    texts = [pair["response"] for pair in asked.body["pairs"]]
    return web.json_response({"rewards": [named.get(text, len(text)) for text in texts]})


def first(times: int, behaviour: Answer) -> Answer:
    """Misbehave the first times that each request is asked."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.again < times else lengths)(asked)

    return answer


def test_pairs_go_out_in_batches_and_rewards_come_back_in_order(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = lengths
    assert same(scores(reward_of(server, api_key_env="SOME_KEY", batch=2, slots=1)), REWARDS)
    assert [asked.body for asked in server.asked] == [
        {"pairs": [{"prompt": prompt, "response": response} for prompt, response in PAIRS[start : start + 2]]}
        for start in (0, 2, 4)
    ]
    assert {asked.path for asked in server.asked} == {"/rewards"}
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}


def test_a_model_is_sent_and_part_of_the_fingerprint_and_the_address_is_not(
    server: HttpEngine, other: HttpEngine
) -> None:
    server.answer = lengths
    reward = reward_of(server, name="rules-2", model="big")
    scores(reward)
    assert server.asked[0].body["model"] == "big"
    assert reward.fingerprint == reward_of(other, name="rules-2", model="big").fingerprint == "http:rules-2:big"
    assert reward_of(server).fingerprint == "http:http"


def test_an_address_that_ends_in_a_slash_is_asked_with_it(server: HttpEngine) -> None:
    server.answer = lengths
    scores(HttpReward(url=[address(server, "/rewards/")]))
    assert {asked.path for asked in server.asked} == {"/rewards/"}


def test_no_more_requests_than_slots_are_in_flight_and_all_of_them_are_used(server: HttpEngine) -> None:
    async def slow(asked: Asked) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await lengths(asked)

    server.answer = slow
    assert scores(reward_of(server, batch=1, slots=3), [("How?", str(i)) for i in range(12)]) == [1.0] * 10 + [2.0] * 2
    assert server.most_running == 3


@pytest.mark.parametrize(
    "behaviour",
    [
        refuses(429, "slow down", **{"Retry-After": "0"}),
        refuses(500, "oops"),
        refuses(503),
        says({"error": "warming up"}),
        says({"rewards": []}),
        says({"rewards": 3}),
        says("no JSON"),
        close,
        half_a_body,
    ],
)
def test_what_can_pass_is_asked_again(server: HttpEngine, behaviour: Answer) -> None:
    server.answer = first(2, behaviour)
    assert same(scores(reward_of(server)), REWARDS)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (says({"rewards": [1.0, 2.0]}), "reward.url: the service gave 2 rewards for 5 pairs; expected one each"),
        (says({"rewards": [1, 2, 3, 4, "NaN"]}), "reward.url: the service gave the reward 'NaN'; expected a number"),
        (says({"rewards": [1, 2, 3, 4, True]}), "the service gave the reward True; expected a number, or null"),
        (says({"rewards": [1, 2, 3, 4, {"score": 5}]}), "gave the reward {'score': 5}; expected a number, or null"),
        (refuses(401, f"no {KEY}"), "check the key in the environment variable SOME_KEY"),
        (refuses(404, "Not Found"), "does the service take POST requests at this very path?"),
        (refuses(405), "does the service take POST requests at this very path?"),
    ],
)
def test_what_no_pair_can_mend_ends_the_run_in_one_line(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch, behaviour: Answer, words: str
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = behaviour
    with pytest.raises(FittestError) as caught:
        scores(reward_of(server, api_key_env="SOME_KEY"))
    assert words in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_service_elsewhere_is_named_with_the_key_to_set(server: HttpEngine) -> None:
    async def elsewhere(asked: Asked) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://other/rewards"})

    server.answer = elsewhere
    with pytest.raises(FittestError, match=r"redirects to http://other/rewards; set reward\.url to where"):
        scores(reward_of(server))
    server.kill()
    with pytest.raises(EngineLostError, match=r"no server has answered.*--set reward\.url=URL"):
        scores(reward_of(server, patience=0.5))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_pair_that_is_refused_costs_the_others_nothing(server: HttpEngine, status: int) -> None:
    async def short_of_room(asked: Asked) -> web.StreamResponse:
        if any(pair["response"] == "Because of it." for pair in asked.body["pairs"]):
            return error(status, "too long for me")
        return await lengths(asked)

    server.answer = short_of_room
    reward = reward_of(server)
    assert scores(reward, PAIRS[:2]) == [3.0, 0.0]
    found = scores(reward, PAIRS[:4])
    assert (found[:2], found[3]) == ([3.0, 0.0], None)
    assert isinstance(found[2], Missing)
    assert found[2].reason.endswith("too long for me")


def test_a_service_that_refuses_the_very_first_pairs_ends_the_run(server: HttpEngine) -> None:
    server.answer = refuses(422, "field required: texts")
    with pytest.raises(FittestError, match=r"422 .*: field required: texts; the service should take pairs as docs"):
        scores(reward_of(server))
    assert len(server.asked) == 1


def test_one_prompt_that_is_too_long_is_missing_and_twenty_in_a_row_end_the_run(server: HttpEngine) -> None:
    async def short_of_room(asked: Asked) -> web.StreamResponse:
        return error(413, "that is much") if asked.body["pairs"][0]["prompt"] == "Long" else await lengths(asked)

    server.answer = short_of_room
    reward = reward_of(server, batch=8)
    many = [("Long", str(i)) for i in range(64)]
    found = scores(reward, many)
    assert {score.reason for score in found} == {f"413 {HTTPStatus(413).phrase}: that is much"}
    assert scores(reward, PAIRS[:1]) == [3.0]
    for _ in range(19):
        scores(reward, many[:1])
    with pytest.raises(FittestError, match=r"20 prompts in a row got no reward for any response.*that is much"):
        scores(reward, many[:1])


def test_headers_come_from_the_environment_and_parameters_are_added_to_the_address(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_ORG", "org-of-mine")
    server.answer = lengths
    scores(reward_of(server, headers_env={"X-Org": "MY_ORG"}, extra_query={"api-version": "2026 a"}))
    assert server.asked[0].request.query == {"api-version": "2026 a"}
    assert server.asked[0].headers["X-Org"] == "org-of-mine"


def test_a_huge_integer_is_infinite_and_not_an_error(server: HttpEngine) -> None:
    server.answer = says('{"rewards": [1' + "0" * 400 + ", 1e999]}")
    assert scores(reward_of(server), PAIRS[:2]) == [math.inf, math.inf]


def test_one_of_two_services_hangs_and_everything_is_scored(server: HttpEngine, other: HttpEngine) -> None:
    other.answer = hang
    server.answer = lengths
    assert same(scores(reward_of(server, other, timeout=0.3, batch=1), PAIRS * 4), REWARDS * 4)


def test_the_service_in_the_documentation_keeps_the_contract(server: HttpEngine) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "service"}
    exec(page.split("```python\n")[1].split("```")[0], names)

    async def answer(asked: Asked) -> web.StreamResponse:
        found: web.StreamResponse = await names["score"](asked.request)
        return found

    server.answer = answer
    assert scores(reward_of(server), [("Why?", "Because."), ("Why?", "just because")]) == [-0.008, 0.988]


def reward_tables(*at: HttpEngine, **keys: Any) -> dict[str, Any]:
    tables = null_tables(run={"generations": 1}, pool={"limit": 20}, operators={"offspring": 8})
    tables["reward"] = {"kind": "http", "url": [address(server) for server in at], **keys}
    return tables


def test_a_run_waits_for_a_service_that_is_killed_and_restarted_and_asks_nothing_twice(
    server: HttpEngine, tmp_path: Path
) -> None:
    answered: Counter[tuple[str, str]] = Counter()
    deaths: list[threading.Timer] = []
    back = threading.Event()

    async def mortal(asked: Asked) -> web.StreamResponse:
        if len(answered) > 40 and not back.is_set():
            # what arrives now is lost with the service; what was answered before has the time to arrive
            if not deaths:
                deaths.extend([threading.Timer(0.5, server.begin_to_die), threading.Timer(0.8, return_to_life)])
                for death in deaths:
                    death.start()
            return await hang(asked)
        answered.update((pair["prompt"], pair["response"]) for pair in asked.body["pairs"])
        return await lengths(asked)

    def return_to_life() -> None:
        back.set()
        server.start()

    server.answer = lengths
    assert run(parse_config(reward_tables(server)), tmp_path / "whole" / "run").summary["stop_reason"] == "generations"
    server.answer = mortal
    broken = run(parse_config(reward_tables(server, batch=3)), tmp_path / "broken" / "run")
    assert broken.summary["stop_reason"] == "generations"
    for death in deaths:
        death.join()
    del answered["Say hello.", "Hello."]  # the trial at the start, and the probe that found the service alive again
    assert set(answered.values()) == {1}
    assert len(answered) > 80
    assert tables_of(tmp_path / "broken" / "run") == tables_of(tmp_path / "whole" / "run")

    server.answer, before = lengths, len(server.asked)
    (tmp_path / "broken" / "run" / "summary.json").unlink()
    moved = reward_tables(server, batch=7, url=address(server, "/elsewhere"), timeout=9.0)
    again = run(parse_config(moved), tmp_path / "broken" / "run", resume=True)
    assert again.summary["stop_reason"] == "generations"
    # only the trial at the start
    assert [(asked.path, asked.body) for asked in server.asked[before:]] == [("/elsewhere", {"pairs": [EXAMPLE]})]


def test_another_name_is_another_reward_and_a_run_cannot_change_it(server: HttpEngine, tmp_path: Path) -> None:
    server.answer = lengths
    run(parse_config(reward_tables(server)), tmp_path / "run")
    with pytest.raises(FittestError, match=r"reward\.name"):
        run(parse_config(reward_tables(server, name="rules-2")), tmp_path / "run", resume=True)


def test_check_and_doctor_try_one_pair(server: HttpEngine, tmp_path: Path) -> None:
    import tomli_w

    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(reward_tables(server)), encoding="utf-8")
    server.answer = lengths
    for verb in (["check", str(path)], ["doctor", str(path)]):
        before = len(server.asked)
        result = CliRunner().invoke(main, verb)
        assert result.exit_code == 0, result.output
        assert address(server) in result.output
        assert [asked.body for asked in server.asked[before:]] in ([{"pairs": [EXAMPLE]}] * times for times in (1, 2))
    server.answer = says({"rewards": ["high"]})
    began = time.monotonic()
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 2
    assert "the service gave the reward 'high'; expected a number, or null" in result.output
    assert time.monotonic() - began < 100


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "localhost"}, 'url "localhost" is no address of a server'),
        ({"url": "http://u:p@a/x"}, "url must hold no key, password or query"),
        ({"url": ["http://a/x", "http://a/x/"]}, "url names a server twice"),
        ({"url": []}, "url, complete with its path"),
        ({"api_key_env": KEY}, "api_key_env must be the name of the environment variable"),
        ({"headers_env": {"X-Org": KEY}}, "headers_env.X-Org must be the name of the environment variable"),
        ({"extra_query": {"api-key": KEY}}, "extra_query.api-key would be written to run.toml"),
        ({"name": "a:b"}, "reward.name"),
        ({"batch": 0}, "reward.batch"),
    ],
)
def test_a_wrong_section_is_named(keys: dict[str, Any], message: str) -> None:
    tables = null_tables()
    tables["reward"] = {"kind": "http", "url": "http://a/x", **keys}
    with pytest.raises(FittestError) as caught:
        parse_config(tables)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)
