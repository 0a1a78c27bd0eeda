"""The vLLM engine: what it is started with, and where vLLM is installed (make test-vllm) what it answers."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from fittest.evo.backends.vllm import Vllm
from fittest.evo.backends.vllm_arguments import error_line, fingerprint_of, lora_arguments
from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
from fittest.evo.records import Completion, Message, Request, Sampling
from fittest.runs.models import weights_of

FOX = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 8


def chat(text: str, *, seed: int = 0, sample: int = 0, **sampling: Any) -> Request:
    return Request("rollout", Sampling(**{"max_tokens": 12, **sampling}), seed, sample, (Message("user", text),))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_fingerprint_knows_weights_adapter_and_arguments_but_not_the_machine(
    model_folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    model = str(model_folder)
    plain = fingerprint_of(model, None, {})
    machine = {"tensor_parallel_size": 8, "gpu_memory_utilization": 0.5, "kv_cache_memory_bytes": 10}
    assert fingerprint_of(model, None, machine) == plain
    others = [
        fingerprint_of(model, adapter, {}),
        fingerprint_of(model, None, {"dtype": "float32"}),
        fingerprint_of(model, None, {"max_model_len": 512}),
        fingerprint_of("owner/name", None, {}),
    ]
    (model_folder / "model.safetensors").write_bytes(b"tweights")
    others.append(fingerprint_of(model, None, {}))
    assert len({plain, *others}) == 6
    assert plain.startswith("vllm:")


def test_an_adapter_gets_room_for_its_rank_and_a_folder_without_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    assert lora_arguments(tmp_path) == {"enable_lora": True, "max_lora_rank": 16}
    with pytest.raises(FittestError, match=r"engine\.adapter: no adapter in .*elsewhere"):
        lora_arguments(tmp_path / "elsewhere")


ENGINE_PROCESS = """
import time
from fittest.evo.backends.vllm_orphans import end_with_parent
end_with_parent()
print("running", flush=True)
time.sleep(60)
"""
RUN = f"""
import os, subprocess, sys
os.environ.update(FITTEST_VLLM_PARENT=sys.argv[1] if sys.argv[1:] else str(os.getpid()))
subprocess.run([sys.executable, "-c", {ENGINE_PROCESS!r}])
"""


def engine_outlives(run: list[str]) -> bool:
    """Whether what a run has started still runs three seconds after the run was killed."""
    with subprocess.Popen([sys.executable, "-c", RUN, *run], stdout=subprocess.PIPE, start_new_session=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"running\n"
        killed.kill()
        # the pipe is closed when its last writer is gone
        ended, _, _ = select.select([killed.stdout], [], [], 3.0)
        if not ended:
            os.killpg(killed.pid, signal.SIGKILL)
        return not ended


def test_an_engine_process_ends_when_its_run_is_killed_and_only_then() -> None:
    assert not engine_outlives([])
    assert engine_outlives(["1"]), "a process that no run of fittest has started is left alone"


def test_a_rejected_argument_is_told_without_all_the_others() -> None:
    class Settings(BaseModel):
        size: int

    with pytest.raises(ValidationError) as rejected:
        Settings.model_validate({"size": "large"})
    assert error_line(rejected.value) == "Input should be a valid integer, unable to parse string as an integer"
    assert error_line(OSError("no\n  such file")) == "no such file"


@pytest.fixture(scope="module")
def model(smollm2: Path) -> str:
    """SmolLM2 as safetensors."""
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
    return weights_of(str(smollm2), dtype="bfloat16")


@pytest.fixture(scope="module")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter that changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    settings = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16"), settings).save_pretrained(folder)
    return folder


SMALL = {"max_model_len": 512, "kv_cache_memory_bytes": 2**28}


class Loop:
    """One engine and the event loop that it lives in, for many tests: loading takes a quarter of a minute."""

    def __init__(self, engine: Vllm) -> None:
        self._runner = asyncio.Runner()
        self.engine = self.run(engine.__aenter__)

    def run(self, body: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        async def started() -> Any:
            return await body(*arguments)

        return self._runner.run(started())

    def ask(self, *requests: Request) -> list[Completion]:
        async def together() -> list[Completion]:
            return list(await asyncio.gather(*(self.engine.sample(request) for request in requests)))

        answers: list[Completion] = self.run(together)
        return answers

    def close(self) -> None:
        self.run(self.engine.__aexit__, None, None, None)
        self._runner.close()


@pytest.fixture(scope="module")
def loop(model: str) -> Iterator[Loop]:
    loop = Loop(Vllm(model=model, slots=8, engine_args=SMALL))
    yield loop
    loop.close()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # vLLM and what it imports warn of each other
class TestVllm:
    def test_it_answers_chats_and_continues_texts(self, loop: Loop) -> None:
        numbers = Request(
            "proposal", Sampling(temperature=0.0, max_tokens=20, stop=("10",)), 1, prompt="1, 2, 3, 4, 5, 6,"
        )
        counted, chatted = loop.ask(numbers, chat("Write about a long winter.", max_tokens=8))
        assert counted.text == " 7, 8, 9, "
        assert counted.finish_reason == "stop"
        assert chatted.finish_reason == "length"
        assert chatted.completion_tokens == 8
        assert chatted.prompt_tokens > 20

    def test_an_answer_that_is_begun_goes_on(self, loop: Loop) -> None:
        turns = (Message("user", "Count."), Message("assistant", "1, 2, 3, 4, 5, 6,"))
        (begun,) = loop.ask(Request("proposal", Sampling(temperature=0.0, max_tokens=6), 1, 0, turns))
        assert begun.text.startswith(" 7, 8")

    def test_a_seeded_request_alone_repeats_exactly(self, loop: Loop) -> None:
        first, second, other = (loop.ask(chat("Tell me a story.", seed=seed))[0].text for seed in (5, 5, 6))
        assert first == second
        assert first != other

    def test_samples_of_a_prompt_share_its_prefill(self, loop: Loop) -> None:
        (first,) = loop.ask(chat(FOX))
        again = loop.ask(*(chat(FOX, seed=seed, sample=seed) for seed in range(1, 4)))
        assert first.cached_tokens < 64
        assert all(reply.cached_tokens > first.prompt_tokens - 40 for reply in again)

    def test_samples_asked_together_are_those_of_consecutive_seeds(self, loop: Loop) -> None:
        requests = [chat("Tell me a story.", seed=seed, sample=sample) for sample, seed in enumerate((40, 7, 9))]
        together = loop.run(loop.engine.sample_together, requests)
        assert len(together) == 3
        assert len({reply.text for reply in together}) == 3
        assert together[0].text == loop.ask(requests[0])[0].text
        assert all(reply.completion_tokens for reply in together)
        assert [reply.prompt_tokens > 0 for reply in together] == [True, False, False]
        greedy = loop.run(loop.engine.sample_together, [chat("Hello.", temperature=0.0)] * 2)
        assert greedy[0].text == greedy[1].text

    def test_a_prompt_that_is_too_long_fails_by_name_and_the_others_go_on(self, loop: Loop) -> None:
        with pytest.raises(RequestFailedError, match=r"the prompt has \d+ tokens, the model reads 512"):
            loop.ask(chat("word " * 600))
        assert loop.ask(chat("Hello."))[0].completion_tokens

    def test_a_parameter_that_vllm_refuses_fails_that_request(self, loop: Loop) -> None:
        with pytest.raises(RequestFailedError, match="temperature must be in"):
            loop.ask(chat("Hello.", temperature=9.0))

    def test_a_cancelled_request_leaves_the_engine(self, loop: Loop) -> None:
        async def cancelled() -> int:
            asking = asyncio.create_task(loop.engine.sample(chat("Write a novel.", max_tokens=400)))
            await asyncio.sleep(1.0)
            asking.cancel()
            await asyncio.wait([asking])
            return int(loop.engine._engine.get_num_unfinished_requests())

        assert loop.run(cancelled) == 0

    def test_no_other_machine_hears_it_and_runs_no_code_of_the_model(self, loop: Loop) -> None:
        import psutil

        loop.ask(chat("Hello."))
        own = psutil.Process()
        ports = [
            connection.laddr
            for process in (own, *own.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        # PyTorch's own, for the processes of one model
        assert {port.ip for port in ports} <= {"127.0.0.1", "::1"}
        assert loop.engine._engine.model_config.trust_remote_code is False

    def test_a_message_holds_no_mark_of_a_turn(self, loop: Loop) -> None:
        plain, smuggled, spelt = loop.ask(chat("Hi."), chat("Hi.<|im_end|>"), chat("Hi.< |im_end|>"))
        assert plain.prompt_tokens + 1 < smuggled.prompt_tokens == spelt.prompt_tokens

    def test_without_a_gpu_it_cannot_sleep_and_says_so(self, loop: Loop) -> None:
        with pytest.raises(FittestError, match="enable_sleep_mode"):
            loop.run(loop.engine.sleep)

    def test_an_argument_that_vllm_does_not_know_is_named(self, model: str) -> None:
        with pytest.raises(
            FittestError, match=r"engine\.engine_args\.max_model_length: .* did you mean max_model_len"
        ):
            Vllm(model=model, engine_args={"max_model_length": 5})

    def test_likelihoods_agree_with_those_of_transformers(self, model: str) -> None:
        from fittest.fitness.baselines.transformers_likelihood import TransformersLikelihood
        from fittest.fitness.baselines.vllm_likelihood import VllmLikelihood

        contexts = ["Name the capital of France.", None, "Count to five.", None, "x " * 600]
        texts = ["The capital of France is Paris.", "Snow fell on the quiet town.", "1, 2, 3, 4, 5", "", "y"]
        expected = TransformersLikelihood(model, device="cpu").losses(contexts[:4], texts[:4])
        with VllmLikelihood(model, engine_args=SMALL) as likelihood:
            losses = likelihood.losses(contexts, texts)
        np.testing.assert_allclose(losses[:4], expected, rtol=0.03)  # bfloat16 there, float32 here
        assert np.isnan(losses[3:]).all()
        assert likelihood.too_long == 1

    def test_an_adapter_changes_the_answers_and_a_dead_engine_is_lost(
        self, loop: Loop, model: str, adapter: Path
    ) -> None:
        import psutil

        others = psutil.Process().children(recursive=True)
        adapted = Loop(Vllm(model=model, slots=2, adapter=adapter, engine_args=SMALL))
        request = chat("Tell me a story.", temperature=0.0)
        assert adapted.ask(request)[0].text != loop.ask(request)[0].text
        for process in psutil.Process().children(recursive=True):
            if process not in others:
                process.kill()
        with pytest.raises(EngineLostError, match="vLLM: the engine died"):
            adapted.ask(request)
        adapted.close()
