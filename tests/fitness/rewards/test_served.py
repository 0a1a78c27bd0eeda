"""A reward model on servers: what vLLM scores comes back, what it refuses is missing, an outage is neither."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.backends.servers import Cause, Trouble
from fittest.evo.errors import EngineLostError, FittestError
from fittest.evo.records import Missing
from fittest.fitness.rewards.served import ServedReward
from fittest.runs import run
from fittest.runs.config import parse_config
from fittest.runs.config.file import load_config
from tests.conftest import null_tables
from tests.http_engine import Answer, Asked, HttpEngine, close, error, half_a_body, hang, refuses, says, scores_lengths

pytestmark = pytest.mark.usefixtures("short_pauses")

KEY = "sk-very-secret-0123456789"
PAIRS = [("How?", "So."), ("How?", ""), ("Why?", "Because of it.")]
TOO_LONG = "This model's maximum context length is 8 tokens. However, your prompt contains 99 input tokens"


def reward_of(*at: HttpEngine, **settings: Any) -> ServedReward:
    return ServedReward(
        base_url=[server.url for server in at], model="r", **{"patience": 2.0, "timeout": 2.0} | settings
    )


def scores(reward: ServedReward, *pairs: tuple[str, str]) -> list[float | Missing]:
    async def body() -> list[float | Missing]:
        async with asyncio.timeout(30):
            return await reward.score([prompt for prompt, _ in pairs], [response for _, response in pairs])

    return asyncio.run(body())


def first(times: int, behaviour: Answer) -> Answer:
    """Misbehave the first times that each pair is asked."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.again < times else scores_lengths)(asked)

    return answer


def test_pairs_go_out_as_chats_and_scores_come_back_in_order(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = scores_lengths
    assert scores(reward_of(server, api_key_env="SOME_KEY"), *PAIRS) == [2.5, -0.5, 13.5]
    asked = next(asked for asked in server.asked if asked.body["messages"][1]["content"] == "So.")
    assert asked.path == "/classify"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "r",
        "messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}],
        "use_activation": False,
    }


@pytest.mark.parametrize(
    "behaviour",
    [
        refuses(429, "slow down"),
        refuses(429, "slow down", **{"Retry-After": "0"}),
        refuses(500, "oops"),
        refuses(503),
        says({"error": {"message": "oops"}}),
        says({"data": []}),
        says({"data": [{"probs": []}]}),
        says({"data": [{"probs": ["high"]}]}),
        says({"data": [{"score": 1.0}]}),
        says("no JSON"),
        close,
        half_a_body,
    ],
)
def test_what_can_pass_is_asked_again(server: HttpEngine, behaviour: Answer) -> None:
    server.answer = first(2, behaviour)
    assert scores(reward_of(server), *PAIRS) == [2.5, -0.5, 13.5]
    assert len(server.asked) >= 9


def test_a_pair_that_is_too_long_is_missing_in_the_servers_words_and_the_others_are_scored(server: HttpEngine) -> None:
    async def short_of_room(asked: Asked) -> web.StreamResponse:
        if asked.body["messages"][0]["content"] == "Why?":
            return error(400, TOO_LONG)
        return await scores_lengths(asked)

    server.answer = short_of_room
    assert scores(reward_of(server), *PAIRS) == [2.5, -0.5, Missing(f"400 Bad Request: {TOO_LONG}")]
    assert len(server.asked) == 3


def test_a_shape_that_is_always_wrong_is_missing_after_some_tries(server: HttpEngine) -> None:
    async def odd(asked: Asked) -> web.StreamResponse:
        if asked.body["messages"][0]["content"] == "Why?":
            return web.json_response({"data": [{"probs": None}]})
        return await scores_lengths(asked)

    server.answer = odd
    found = scores(reward_of(server, slots=1), *PAIRS)
    assert found == [2.5, -0.5, Missing("the reply has no scores (8 tries)")]


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (
            says({"data": [{"probs": [0.1, 0.2, 0.3]}]}),
            "reward.model: r gives 3 labels; expected a reward model with one",
        ),
        (refuses(401, f"no {KEY}"), "check the key in the environment variable SOME_KEY"),
        (refuses(404, "Not Found"), "does vLLM serve reward.model = 'r' as a classifier there"),
        (refuses(501, "The model does not support Classification API"), "as a classifier there (--runner pooling)?"),
    ],
)
def test_what_no_pair_can_mend_ends_the_run(
    server: HttpEngine, monkeypatch: pytest.MonkeyPatch, behaviour: Answer, words: str
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = behaviour
    with pytest.raises(FittestError) as caught:
        scores(reward_of(server, api_key_env="SOME_KEY"), *PAIRS)
    assert words in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_server_that_is_gone_ends_the_run_and_names_the_key_to_set(server: HttpEngine) -> None:
    server.kill()
    with pytest.raises(EngineLostError, match=r"no server has answered.*--set reward\.base_url=URL"):
        scores(reward_of(server, patience=0.5), *PAIRS)


def test_one_of_two_servers_dies_and_everything_is_scored(server: HttpEngine, other: HttpEngine) -> None:
    other.answer = hang
    server.answer = scores_lengths
    reward = reward_of(server, other, timeout=0.3)
    assert scores(reward, *PAIRS * 4) == [2.5, -0.5, 13.5] * 4
    other.kill()
    assert scores(reward, *PAIRS) == [2.5, -0.5, 13.5]


def test_after_an_outage_a_pair_may_come_while_the_last_user_leaves(server: HttpEngine) -> None:
    server.answer = scores_lengths
    reward = reward_of(server)
    endpoint = reward._endpoint

    async def body() -> None:
        await endpoint.__aenter__()
        (at,) = endpoint.servers.all
        endpoint.servers.failed(at, Trouble(Cause.UNREACHABLE, "gone"), sent_at=0.0)
        leaving = asyncio.create_task(endpoint.__aexit__())
        await asyncio.sleep(0)  # as far as waiting for the revival to end
        assert await reward.score(["How?"], ["So."]) == [2.5]
        await leaving

    asyncio.run(body())


def reward_tables(*at: HttpEngine, **keys: Any) -> dict[str, Any]:
    tables = null_tables(run={"generations": 1}, pool={"limit": 12}, operators={"offspring": 6})
    tables["reward"] = {"kind": "classifier", "model": "r", "base_url": [server.url for server in at], **keys}
    return tables


def test_a_run_keeps_its_rewards_and_goes_on_with_servers_elsewhere(
    server: HttpEngine, other: HttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer = scores_lengths
    config = parse_config(reward_tables(server, api_key_env="SOME_KEY"))
    assert run(config, tmp_path / "whole").summary["stop_reason"] == "generations"
    (tmp_path / "whole" / "summary.json").unlink()
    bodies = [str(asked.body) for asked in server.asked]
    assert len(set(bodies)) == len(bodies) > 30

    other.answer = refuses(500, "none of these may be asked")
    again = run(parse_config(reward_tables(other)), tmp_path / "whole", resume=True)
    assert again.summary["stop_reason"] == "generations"
    assert other.asked == []
    files = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dtype": "float16"}, 'reward kind "classifier" with base_url does not take dtype'),
        ({"base_url": "localhost"}, '"localhost" is no address of a server'),
        ({"api_key_env": KEY}, "api_key_env must be the name of the environment variable"),
        ({"base_url": ["http://a", "http://a/"]}, "names a server twice"),
    ],
)
def test_a_wrong_reward_section_is_named(keys: dict[str, Any], message: str) -> None:
    tables = null_tables()
    tables["reward"] = {"kind": "classifier", "model": "r", "base_url": "http://a", **keys}
    with pytest.raises(FittestError) as caught:
        parse_config(tables)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_keys_of_servers_need_a_server() -> None:
    tables = null_tables()
    tables["reward"] = {"kind": "classifier", "model": "r", "slots": 3}
    with pytest.raises(FittestError, match='"classifier" without base_url does not take slots'):
        parse_config(tables)


def test_a_model_on_a_server_is_a_name_whatever_files_are_here(server: HttpEngine, tmp_path: Path) -> None:
    import tomli_w

    (tmp_path / "r").mkdir()
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(reward_tables(server)), encoding="utf-8")
    assert load_config(path).reward.model == "r"
