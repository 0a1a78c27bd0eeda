"""The transformers engine: what a seed decides, what ends an answer, and what stands together in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.evo.feeder import Feeder
from fittest.evo.pretrained.chats import chat_tokens
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from fittest.runs.output.journal import SqliteJournal
from tests.tiny_model import make_tiny_model

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), context=64)


def request(seed: int, text: str = "Name a sea.", sampling: Sampling = SAMPLING) -> Request:
    return Request("rollout", sampling, seed, 0, (Message("user", text),))


def test_samples_together_share_a_prompt_that_is_counted_once(folder: Path) -> None:
    asked = [replace(request(seed), sample=seed) for seed in range(4)]
    engine = Transformers(model=folder, device="cpu", slots=5)

    async def body() -> list[Completion | Failure]:
        async with Feeder(engine, SqliteJournal(":memory:"), together=4) as feeder:
            return await feeder.ask_all(asked)

    found, alone = asyncio.run(body()), replies(Transformers(model=folder, device="cpu"), asked)
    assert [reply.text for reply in found if isinstance(reply, Completion)] == [
        reply.text for reply in alone if isinstance(reply, Completion)
    ]
    counts = [reply.prompt_tokens for reply in found if isinstance(reply, Completion)]
    assert counts[0] > 0
    assert counts[1:] == [0, 0, 0]


def test_a_context_that_is_set_makes_another_engine(folder: Path) -> None:
    engines = [Transformers(model=folder, device="cpu", context=context) for context in (None, 32, 48)]
    assert len({engine.fingerprint for engine in engines}) == 3


def replies(engine: Transformers, requests: Sequence[Request]) -> list[Completion | Failure]:
    async def body() -> list[Completion | Failure]:
        async with Feeder(engine, SqliteJournal(":memory:")) as feeder:
            return await feeder.ask_all(requests)

    return asyncio.run(body())


def texts(found: Sequence[Completion | Failure]) -> list[str]:
    return [reply.text if isinstance(reply, Completion) else reply.reason for reply in found]


def test_a_reply_follows_from_its_own_request_whatever_stands_beside_it(folder: Path) -> None:
    engine = Transformers(model=folder, slots=4, device="cpu")
    wanted = [request(seed, text) for text in ("Name a sea.", "Why?") for seed in range(5)]
    together = texts(replies(engine, wanted))
    assert len(set(together)) > 5
    assert texts(replies(engine, wanted[::-1])) == together[::-1]
    assert [texts(replies(engine, [one]))[0] for one in wanted] == together


def test_greedy_takes_the_likeliest_token_of_a_plain_forward_pass(folder: Path) -> None:
    engine = Transformers(model=folder, device="cpu")
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    (text,) = texts(replies(engine, [request(0, sampling=greedy)]))
    tokens = chat_tokens(engine.tokenizer, request(0).messages)
    begun = len(tokens)
    while len(tokens) < begun + 8 and tokens[-1] != engine.tokenizer.eos_token_id:
        with torch.no_grad():
            tokens.append(int(engine.network(torch.tensor([tokens])).logits[0, -1].argmax()))
    assert text == engine.tokenizer.decode(tokens[begun:], skip_special_tokens=True)


def test_draws_have_the_frequencies_that_the_model_gives(folder: Path) -> None:
    engine = Transformers(model=folder, slots=400, device="cpu")
    one = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
    drawn = texts(replies(engine, [replace(request(seed, sampling=one), sample=seed) for seed in range(2000)]))
    with torch.no_grad():
        logits = engine.network(torch.tensor([chat_tokens(engine.tokenizer, request(0).messages)])).logits[0, -1]
    likeliest = int(logits.argmax())
    chance = float(torch.softmax(logits.double(), 0)[likeliest])
    share = np.mean([text == engine.tokenizer.decode([likeliest], skip_special_tokens=True) for text in drawn])
    assert abs(share - chance) < 4 * (chance * (1 - chance) / 2000) ** 0.5


def test_a_narrow_nucleus_is_greedy(folder: Path) -> None:
    engine = Transformers(model=folder, device="cpu")
    narrow = [request(seed, sampling=Sampling(1.0, 1e-6, 6)) for seed in range(3)]
    assert set(texts(replies(engine, narrow))) == set(
        texts(replies(engine, [request(0, sampling=Sampling(0.0, 1.0, 6))]))
    )


def test_stop_strings_and_the_limit_end_an_answer(folder: Path) -> None:
    engine = Transformers(model=folder, device="cpu")
    (whole,) = replies(engine, [request(3, sampling=Sampling(0.0, 1.0, 10))])
    assert isinstance(whole, Completion)
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 10)
    (cut,) = replies(engine, [request(3, sampling=Sampling(0.0, 1.0, 10, stop=(whole.text[3:5],)))])
    assert isinstance(cut, Completion)
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.find(whole.text[3:5])]


def test_a_prompt_without_room_for_an_answer_is_a_failure(folder: Path) -> None:
    (reply,) = replies(Transformers(model=folder, device="cpu"), [request(0, "x" * 80)])
    assert isinstance(reply, Failure)
    assert "the model reads 1 to 64" in reply.reason


def test_an_adapter_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FittestError, match=r"engine.adapter: no adapter_config.json in .*; expected what PEFT wrote"):
        Transformers(model=folder, adapter=tmp_path)
