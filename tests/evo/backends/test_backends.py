"""Each engine answers in its own way, and the embedded one really runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.evo.backends.null import Null
from fittest.evo.backends.replay import Replay
from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.protocols import Backend
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from fittest.runs import parse_config, run
from tests.conftest import null_tables


def chat(text: str, *, seed: int = 0, sample: int = 0, max_tokens: int = 12) -> Request:
    return Request("rollout", Sampling(max_tokens=max_tokens), seed, sample, (Message("user", text),))


def answers(backend: Backend, *requests: Request) -> list[Completion | Failure]:
    async def ask(request: Request) -> Completion | Failure:
        try:
            return await backend.sample(request)
        except RequestFailedError as error:
            return Failure(str(error))

    async def body() -> list[Completion | Failure]:
        async with backend:
            return list(await asyncio.gather(*(ask(request) for request in requests)))

    return asyncio.run(body())


def test_null_depends_on_the_request_alone() -> None:
    first = answers(Null(), chat("a"), chat("a"), chat("b"), chat("a", seed=1))
    assert first[0] == first[1]
    assert len({str(reply) for reply in first}) == 3
    assert answers(Null(slots=2), chat("a")) == first[:1]


def test_null_lengths_vary_and_respect_the_limit() -> None:
    replies = answers(Null(), *(chat("x", seed=seed, max_tokens=30) for seed in range(200)))
    tokens = [reply.completion_tokens for reply in replies if isinstance(reply, Completion)]
    assert len(set(tokens)) > 15
    assert max(tokens) == 30
    assert {reply.finish_reason for reply in replies if isinstance(reply, Completion)} == {"stop", "length"}


def test_replay_plays_the_rows_in_order_and_names_what_it_lacks() -> None:
    replay = Replay.of_responses({"p": ["one", "two", None]}, fingerprint="replay:x")
    found = answers(replay, chat("p", sample=1), chat("p", sample=2), chat("p", sample=3), chat("q"))
    assert isinstance(found[0], Completion)
    assert found[0].text == "two"
    assert found[1:] == [
        Failure("replay: recorded response is null"),
        Failure("replay: only 3 responses recorded"),
        Failure("replay: prompt is not in the recording"),
    ]


def test_real_responses_replay_into_a_run(shared_data: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(shared_data / "responses" / "tulu2_bon16.parquet")
    prompts = table["instruction"].unique(maintain_order=True).head(40)
    prompts.to_frame("prompt").write_parquet(tmp_path / "pool.parquet")
    columns = {"prompt_column": "instruction", "response_column": "output"}
    config = parse_config(
        null_tables(
            run={"seed": 1, "generations": 0},
            pool={"path": str(tmp_path / "pool.parquet"), "limit": 0},
            engine={"kind": "replay", "path": str(shared_data / "responses" / "tulu2_bon16.parquet"), **columns},
        )
    )
    survivors = run(config, tmp_path / "run").survivors
    assert survivors.height
    recorded = dict(table.group_by("instruction").agg("output").iter_rows())
    for row in survivors.iter_rows(named=True):
        assert {row["chosen"], row["rejected"]} <= set(recorded[row["prompt"]][:4])


def test_a_model_that_is_not_there_or_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="no GGUF file at"):
        LlamaCpp(model=tmp_path / "missing.gguf")


@pytest.mark.embedded
class TestLlamaCpp:
    def test_it_answers_chats_and_continues_texts(self, smollm2: Path) -> None:
        engine = LlamaCpp(model=smollm2, slots=4, context=512)
        count = Request(
            "proposal", Sampling(temperature=0.0, max_tokens=12, stop=("\n",)), 1, prompt="1, 2, 3, 4, 5, 6,"
        )
        counted, chatted = answers(engine, count, chat("Name a fruit.", max_tokens=8))
        assert isinstance(counted, Completion)
        assert isinstance(chatted, Completion)
        assert "7, 8" in counted.text
        assert chatted.text.strip()
        assert 0 < chatted.completion_tokens <= 8
        assert chatted.prompt_tokens > 0

    def test_a_seeded_request_alone_repeats_exactly(self, smollm2: Path) -> None:
        first, second, other = (
            answers(LlamaCpp(model=smollm2, slots=2, context=512), chat("Tell me a story.", seed=seed))
            for seed in (5, 5, 6)
        )
        assert first == second
        assert first != other

    def test_a_prompt_longer_than_the_context_fails_by_name_and_the_others_go_on(self, smollm2: Path) -> None:
        engine = LlamaCpp(model=smollm2, slots=2, context=256)
        failed, answered = answers(engine, chat("word " * 2000), chat("Hello."))
        assert isinstance(failed, Failure)
        assert "exceed_context_size" in failed.reason
        assert isinstance(answered, Completion)

    def test_a_file_that_is_no_model_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 1000)
        with pytest.raises(FittestError, match=r"bad\.gguf cannot be loaded"):
            answers(LlamaCpp(model=tmp_path / "bad.gguf", slots=1, context=256), chat("x"))

    def test_leaving_does_not_wait_for_long_answers(self, smollm2: Path) -> None:
        async def body() -> None:
            async with LlamaCpp(model=smollm2, slots=2, context=4096) as engine:
                asking = asyncio.create_task(engine.sample(chat("Write a long novel.", max_tokens=4000)))
                await asyncio.sleep(1.0)
                asking.cancel()

        async def in_time() -> None:
            async with asyncio.timeout(20):
                await body()

        asyncio.run(in_time())


@pytest.mark.embedded
@pytest.mark.slow
def test_a_run_on_the_embedded_engine_with_real_embeddings_and_head(
    smollm2: Path, minilm_folder: Path, tmp_path: Path
) -> None:
    config = parse_config(
        null_tables(
            run={"generations": 1},
            pool={"limit": 6},
            engine={
                "kind": "llamacpp", "model": str(smollm2), "slots": 8, "context": 1024,
                "sampling": {"n": 2, "max_tokens": 24},
            },
            operators={"offspring": 6, "shots": 3, "sampling": {"max_tokens": 48}},
            reward={"kind": "head"},
            diversity={"embedder": str(minilm_folder), "device": "cpu"},
        )
    )  # fmt: skip
    result = run(config, tmp_path / "run")
    assert result.summary["stop_reason"] == "generations"
    assert result.summary["failures"] == {}
    assert result.summary["completion_tokens"] > 100
    assert result.survivors.height
    assert result.survivors["diversity"].is_between(0, 2).all()
