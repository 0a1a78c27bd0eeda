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

    async def only_the_trial(asked: Asked) -> web.StreamResponse:
        assert asked.body["messages"][-1]["content"] == "Hello."
        return await scores_lengths(asked)

    other.answer = only_the_trial
    again = run(parse_config(reward_tables(other)), tmp_path / "whole", resume=True)
    assert again.summary["stop_reason"] == "generations"
    assert len(other.asked) == 1
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


def pooled(data: list[Any]) -> Answer:
    """Answer as vLLM's /pooling does."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"index": 0, "object": "pooling", "data": data}]})

    return answer


@pytest.mark.parametrize(
    ("data", "score"), [([1.5], 1.5), ([[9.0], [8.0], [-0.25]], -0.25), ([None], None), ([[9.0], [None]], None)]
)
def test_pooling_gives_the_number_of_the_response_or_of_its_last_token(
    server: HttpEngine, data: list[Any], score: float | None
) -> None:
    server.answer = pooled(data)
    reward = reward_of(server, api="pooling")
    assert scores(reward, PAIRS[0]) == [score]
    assert reward.fingerprint == "classifier:r@served:pooling"
    assert server.asked[0].path == "/pooling"
    assert server.asked[0].body == {
        "model": "r",
        "messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}],
        "use_activation": False,
    }


@pytest.mark.parametrize("data", [[0.1, 0.2], [[0.1, 0.2]], [[0.5, 0.5], [0.3, 0.7]]])
def test_a_model_that_pools_more_than_one_number_ends_the_run(server: HttpEngine, data: list[Any]) -> None:
    server.answer = pooled(data)
    with pytest.raises(FittestError, match=r"reward.model: r gives 2 numbers for one token or response"):
        scores(reward_of(server, api="pooling"), *PAIRS)


async def scores_texts(asked: Asked) -> web.StreamResponse:
    """Answer as vLLM's /score does, but in reverse order; the reward is the response's length."""
    data = [
        {"index": index, "object": "score", "score": float(len(text))}
        for index, text in enumerate(asked.body["text_2"])
    ]
    return web.json_response({"object": "list", "data": data[::-1], "usage": {"prompt_tokens": 3}})


def test_score_takes_many_pairs_in_one_request(server: HttpEngine) -> None:
    server.answer = scores_texts
    reward = reward_of(server, api="score", batch=2, slots=1)
    assert scores(reward, *PAIRS) == [3.0, 0.0, 14.0]
    assert reward.fingerprint == "classifier:r@served:score"
    assert {asked.path for asked in server.asked} == {"/score"}
    assert [asked.body for asked in server.asked] == [
        {"model": "r", "text_1": ["How?", "How?"], "text_2": ["So.", ""], "use_activation": False},
        {"model": "r", "text_1": ["Why?"], "text_2": ["Because of it."], "use_activation": False},
    ]


def test_score_halves_a_batch_that_is_refused_and_only_the_long_pair_is_missing(server: HttpEngine) -> None:
    async def short_of_room(asked: Asked) -> web.StreamResponse:
        return error(400, TOO_LONG) if "" in asked.body["text_2"] else await scores_texts(asked)

    server.answer = short_of_room
    pairs = [("How?", "x" * length) for length in (1, 2, 3, 4, 0, 6, 7)]
    found = scores(reward_of(server, api="score"), *pairs)
    assert found == [1.0, 2.0, 3.0, 4.0, Missing(f"400 Bad Request: {TOO_LONG}"), 6.0, 7.0]
    assert len(server.asked) == 7  # all, two halves, and each half of the refused ones, down to one pair


@pytest.mark.parametrize(
    "behaviour",
    [says({"data": [{"index": 0, "score": 1.0}]}), says({"data": [{"index": i} for i in range(3)]}), says({})],
)
def test_score_asks_again_where_a_reply_has_not_one_number_for_each_pair(
    server: HttpEngine, behaviour: Answer
) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.again < 2 else scores_texts)(asked)

    server.answer = answer
    assert scores(reward_of(server, api="score"), *PAIRS) == [3.0, 0.0, 14.0]


def test_null_and_nan_of_a_server_are_missing_and_not_asked_again(server: HttpEngine, tmp_path: Path) -> None:
    async def answer(asked: Asked) -> web.StreamResponse:
        probs = [None] if asked.again or asked.number % 3 == 0 else [1.0]
        content = asked.body["messages"][-1]["content"]
        if len(content) % 2:
            return web.Response(text='{"data": [{"probs": [NaN]}]}', content_type="application/json")
        return web.json_response({"data": [{"probs": probs}]})

    server.answer = answer
    summary = run(parse_config(reward_tables(server)), tmp_path / "run").summary
    assert set(summary["failures"]) == {"reward is null", "reward is NaN"}
    bodies = [str(asked.body) for asked in server.asked]
    assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch": 4}, 'batch goes with api = "score"; api = "classify" takes one pair'),
        ({"batch": 4, "api": "pooling"}, 'batch goes with api = "score"; api = "pooling" takes one pair'),
        ({"api": "embed"}, "reward.api"),
    ],
)
def test_a_wrong_api_or_batch_is_named(keys: dict[str, Any], message: str) -> None:
    tables = null_tables()
    tables["reward"] = {"kind": "classifier", "model": "r", "base_url": "http://a", **keys}
    with pytest.raises(FittestError) as caught:
        parse_config(tables)
    assert message in str(caught.value)


def test_check_says_when_a_server_gives_no_number(server: HttpEngine) -> None:
    server.answer = pooled([None])
    assert asyncio.run(reward_of(server, api="pooling").try_out()) == [
        "reward: the servers give no number for the response 'Hello.' to 'Say hello.'"
    ]
    server.answer = pooled([[1.0], [2.0]])
    assert asyncio.run(reward_of(server, api="pooling").try_out()) == []
