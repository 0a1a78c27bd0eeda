"""Log-probabilities of answers: summed token by token here, by TRL's own trainer, and through a server like vLLM's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from transformers import AutoTokenizer, LlamaForCausalLM

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.openai import ONE_TOKEN
from fittest.evo.backends.openai_dialect import Dialect
from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.evo.records import Message
from fittest.fitness.reference.in_transformers import TransformersReference
from fittest.fitness.reference.pairs import AnsweredPair, PairLogProbabilities, pair_tokens
from fittest.fitness.reference.served import ServedReference
from tests.http_engine import Asked, HttpEngine, error, says, well
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = (Message("user", "Name a lake in the north."),)
PAIRS = [
    AnsweredPair(ASKED, "Lake Inari.", "No idea"),
    AnsweredPair((Message("system", "Be brief."), *ASKED), "Inari", ""),
    AnsweredPair(ASKED, "The first answer is right. ", "The second answer is right. "),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert isinstance(model, LlamaForCausalLM)
    return model.eval()


def reference(folder: Path, **settings: Any) -> TransformersReference:
    return TransformersReference(Transformers(model=folder, device="cpu", **settings))


def plain_sum(model: LlamaForCausalLM, tokens: list[int], begun: int) -> float:
    """Token after token, each from a forward pass over what stands before it."""
    total = 0.0
    for place in range(begun, len(tokens)):
        with torch.no_grad():
            scores = model(torch.tensor([tokens[:place]])).logits[0, -1]
        total += (scores[tokens[place]] - scores.exp().sum().log()).item()
    return total


def test_an_answer_counts_with_the_end_of_its_turn_and_reads_the_chat(folder: Path, plain: LlamaForCausalLM) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = reference(folder).log_probabilities(PAIRS)
    for pair, numbers in zip(PAIRS, found, strict=True):
        tokens = pair_tokens(tokenizer, pair)
        written = tokenizer.decode(tokens.chosen[tokens.begun :])
        assert written == f"{pair.chosen}</s>"
        expected = (plain_sum(plain, tokens.chosen, tokens.begun), plain_sum(plain, tokens.rejected, tokens.begun))
        assert numbers == pytest.approx(expected, rel=1e-4)


def test_an_answer_that_is_too_long_leaves_the_pair_without_a_number(folder: Path) -> None:
    longer = AnsweredPair(ASKED, "a" * 80, "b")
    found = reference(folder, context=64).log_probabilities([longer, PAIRS[2]])
    assert found[0] is None
    assert found[1] == reference(folder).log_probabilities([PAIRS[2]])[0]


def test_a_model_without_a_chat_template_is_named(folder: Path) -> None:
    engine = Transformers(model=folder, device="cpu")
    engine.tokenizer.chat_template = None
    with pytest.raises(FittestError, match="the tokenizer has no chat template"):
        TransformersReference(engine).log_probabilities(PAIRS)


def trainer(folder: Path, out: Path, *, precompute: bool, **columns: list[float]) -> Any:
    """TRL's trainer on the pairs, and on more columns of them."""
    trl = pytest.importorskip("trl", reason="training needs trl")
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "prompt": [message._asdict() for message in pair.messages],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            **{name: values[place] for name, values in columns.items()},
        }
        for place, pair in enumerate(PAIRS)
    ]
    arguments = trl.DPOConfig(
        output_dir=str(out), precompute_ref_log_probs=precompute, use_cpu=True, report_to=[], max_length=None,
        bf16=False, gradient_checkpointing=False, per_device_train_batch_size=1,
    )  # fmt: skip
    return trl.DPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )


# TRL 1.16 calls what transformers 5.23 has renamed; can go once it calls the new names
renamed = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning")


@renamed
def test_trls_trainer_computes_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    theirs = trainer(folder, tmp_path, precompute=True).train_dataset
    ours = reference(folder).log_probabilities(PAIRS)
    assert [row.chosen for row in ours if row] == pytest.approx(theirs["ref_chosen_logps"], rel=1e-4)
    assert [row.rejected for row in ours if row] == pytest.approx(theirs["ref_rejected_logps"], rel=1e-4)


@renamed
def test_trls_trainer_takes_the_numbers_from_the_columns(folder: Path, tmp_path: Path) -> None:
    """A policy that is its own reference has loss log 2; with the numbers moved by 1, it has another one."""
    ours = reference(folder).log_probabilities(PAIRS)
    for moved in (0.0, 1.0):
        chosen = [row.chosen + moved for row in ours if row]
        columns = {"ref_chosen_logps": chosen, "ref_rejected_logps": [row.rejected for row in ours if row]}
        made = trainer(folder, tmp_path, precompute=False, **columns)
        made.precompute_ref_logps = True
        batch = next(iter(made.get_train_dataloader()))
        with torch.no_grad():
            loss = made.compute_loss(made.model, batch).item()
        # beta is 0.1
        assert loss == pytest.approx(math.log(1 + math.exp(0.1 * moved)), rel=1e-4)


class LikeVllm:
    """Answers a chat as vLLM's server does when it is asked for `prompt_logprobs`."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    async def __call__(self, asked: Asked) -> web.StreamResponse:
        body = asked.body
        tokens = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=body.get("add_generation_prompt", True), return_dict=True
        )["input_ids"]
        if len(tokens) > 64:
            return error(400, "This model's maximum context length is 64 tokens")
        with torch.no_grad():
            numbers = torch.log_softmax(self.model(torch.tensor([tokens])).logits[0], -1)
        places: list[Mapping[str, Any] | None] = [None]
        for place, token in enumerate(tokens[1:]):
            places.append({str(token): {"logprob": numbers[place, token].item(), "rank": 1, "decoded_token": "?"}})
        choice = {"finish_reason": "length", "message": {"content": "x"}}
        return web.json_response({"choices": [choice], "prompt_logprobs": places})


@pytest.fixture
def served(server: HttpEngine) -> Callable[[], ServedReference]:
    def made() -> ServedReference:
        endpoint = Endpoint(
            section="engine", base_url=[server.url], api_key_env=None, slots=4, timeout=5.0, patience=2.0,
            items="choices", probe=Dialect("m").path_and_body(ONE_TOKEN), hint="?",
        )  # fmt: skip
        return ServedReference(endpoint, "m", {"chat_template_kwargs": {"enable_thinking": False}})

    return made


def test_a_server_gives_the_numbers_of_the_model_behind_it(
    folder: Path, server: HttpEngine, served: Callable[[], ServedReference]
) -> None:
    server.answer = LikeVllm(folder)
    longer = AnsweredPair(ASKED, "a" * 80, "b")
    found = served().log_probabilities([*PAIRS, longer])
    assert found[3] is None
    for ours, theirs in zip(reference(folder).log_probabilities(PAIRS), found, strict=False):
        assert isinstance(ours, PairLogProbabilities)
        assert theirs == pytest.approx(ours, rel=1e-5)
    assert all(asked.body["chat_template_kwargs"] == {"enable_thinking": False} for asked in server.asked)


@pytest.mark.parametrize("answer", [well, says(json.dumps({"error": {"message": "unknown key"}}), 400)])
def test_a_server_that_gives_none_is_one_line(
    server: HttpEngine, served: Callable[[], ServedReference], answer: Any
) -> None:
    async def without(asked: Asked) -> web.StreamResponse:
        asked.body.setdefault("seed", 1)
        reply: web.StreamResponse = await answer(asked)
        return reply

    server.answer = without
    with pytest.raises(FittestError, match="the engine 'openai' gives no log-probabilities of given answers: "):
        served().log_probabilities(PAIRS)
    assert len(server.asked) == 1
