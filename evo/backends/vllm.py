"""Provides the engine `vllm`, through vLLM's asynchronous engine: samples join and leave its batch one by one.

The model runs in processes that vLLM starts and that belong to this process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self, cast

from fittest.evo.backends.vllm_arguments import (
    check_names,
    error_line,
    fingerprint_of,
    lora_arguments,
    require_vllm,
    suited_to_platform,
)
from fittest.evo.backends.vllm_orphans import PARENT
from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
from fittest.evo.pretrained.chats import markup_of, with_sane_template
from fittest.evo.records import Completion, Request

_SHUTDOWN_SECONDS = 30.0
# prompts whose tokens are kept: the samples of a prompt are asked for close together
_TOKENIZED_PROMPTS = 256


class Vllm:
    """Runs a model under vLLM, on one GPU, on several, or on the CPU.

    Samples of the same prompt, and prompts with the same few-shot head, share their prefill in vLLM's prefix cache.
    Seeds are passed on: a seeded request alone in the engine repeats exactly, one in company may be rounded
    differently.

    Args:
        model: a folder of safetensors, or a name on the Hugging Face hub.
        slots: sequences decoded together, vLLM's `max_num_seqs`.
        adapter: the folder of an adapter that is applied to every request.
        engine_args: further arguments of vLLM's engine by name; one whose value is None is left out.

    Raises:
        FittestError: vLLM is not installed or does not know an argument, or the adapter does not exist.
    """

    def __init__(
        self,
        *,
        model: str,
        slots: int = 16,
        adapter: Path | None = None,
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        require_vllm()
        given = {name: value for name, value in (engine_args or {}).items() if value is not None}
        check_names(given)
        self.fingerprint = fingerprint_of(model, adapter, given)
        self.slots = slots
        self._model = model
        self._adapter = adapter
        self._arguments = {
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **({} if adapter is None else lora_arguments(adapter)),
            **given,
            "model": model,
            "max_num_seqs": slots,
        }
        self._numbers = count()  # vLLM needs a different id for each request
        self._engine: Any = None

    async def __aenter__(self) -> Self:
        self._engine = await asyncio.to_thread(self._load)
        self._tokens = lru_cache(maxsize=_TOKENIZED_PROMPTS)(self._tokenized)
        return self

    async def __aexit__(self, *exc: object) -> None:
        engine, self._engine = self._engine, None
        await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)
        del engine
        gc.collect()  # it is part of a reference cycle, and warns when it is collected at the end of the process

    async def sample(self, request: Request) -> Completion:
        """Answers one request; when the caller is cancelled, vLLM drops it."""
        return (await self._answers(request, 1))[0]

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers requests that differ in `sample` and `seed` alone, as one request of vLLM.

        The seed of the first counts: vLLM gives the i-th of them that seed plus i. The first completion carries the
        tokens of the prompt, and how many of them were cached for the sample that vLLM finished last.

        Args:
            requests: the requests.
        """
        asked = requests[0]
        if asked.sampling.temperature == 0.0:  # every answer is the same one, and vLLM takes only n = 1
            answers = await self._answers(asked, 1) * len(requests)
        else:
            answers = await self._answers(asked, len(requests))
        return [answers[0], *(replace(answer, prompt_tokens=0, cached_tokens=0) for answer in answers[1:])]

    async def sleep(self) -> None:
        """Frees the GPU for another use: the weights go to main memory, and the prefix cache is dropped.

        Requests in flight are finished first. The engine starts no work until `wake` is called.

        Raises:
            FittestError: the engine was not started with `enable_sleep_mode`, which vLLM has on GPUs only.
        """
        if not self._engine.vllm_config.model_config.enable_sleep_mode:
            raise FittestError("engine.engine_args.enable_sleep_mode = true is needed to sleep, and a GPU")
        await self._engine.sleep(level=1, mode="wait")

    async def wake(self) -> None:
        """Takes the weights back to the GPU."""
        await self._engine.wake_up()

    async def _answers(self, request: Request, n: int) -> list[Completion]:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        tokens = self._tokens(request.messages, request.prompt)
        room = self._engine.model_config.max_model_len
        if len(tokens) >= room:
            raise RequestFailedError(
                f"vLLM: the prompt has {len(tokens)} tokens, the model reads {room} with its answer"
            )
        try:
            return _completions(await self._generate(request, tokens, n))
        except VLLMClientError as error:
            raise RequestFailedError(f"vLLM: {error}") from None
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineLostError(f"vLLM: the engine died ({error.__cause__ or error})") from error

    async def _generate(self, request: Request, tokens: list[int], n: int) -> Any:
        """Asks for n samples and returns vLLM's output; cancelling the caller aborts them in the engine."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        parameters = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,  # nobody reads a reply before it is finished
        )
        lora = None if self._adapter is None else LoRARequest("adapter", 1, str(self._adapter))
        outputs = self._engine.generate(tokens_input(tokens), parameters, str(next(self._numbers)), lora_request=lora)
        return [output async for output in outputs][-1]

    def _tokenized(self, messages: tuple[Any, ...], prompt: str | None) -> list[int]:
        """Tokenizes a chat by the model's template, or a text as it is; an answer that is begun is left open."""
        tokenizer = self._engine.get_tokenizer()
        markup = markup_of(tokenizer)
        if prompt is not None:
            return cast("list[int]", tokenizer.encode(markup.defused(prompt)))
        begun = messages[-1].role == "assistant"
        try:
            return cast(
                "list[int]",
                tokenizer.apply_chat_template(
                    [message._asdict() for message in markup.in_messages(messages)],
                    tokenize=True,
                    return_dict=False,
                    add_generation_prompt=not begun,
                    continue_final_message=begun,
                ),
            )
        except ValueError as error:
            raise FittestError(f"engine.model: {self._model} has no chat template: {error_line(error)}") from None
        except Exception as error:  # the template is a program that comes with the model, and refuses some chats
            raise RequestFailedError(f"vLLM: the model's chat template: {error_line(error)}") from error

    def _load(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        # Ctrl-C on a terminal reaches the whole process group, and the engine must outlive it, since the requests in
        # flight are waited for and kept: vLLM's processes inherit a mask that blocks the signal.
        os.environ[PARENT] = str(os.getpid())
        resource_tracker.ensure_running()  # started later, it would lift the mask again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**suited_to_platform(self._arguments)))
        except Exception as error:  # any error here comes from the user's model, arguments or machine
            raise FittestError(f"engine.model: vLLM cannot load {self._model}: {error_line(error)}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            with_sane_template(engine.get_tokenizer(), self._model)
        except FittestError:
            engine.shutdown(_SHUTDOWN_SECONDS)
            raise
        return engine


def _completions(output: Any) -> list[Completion]:
    """Returns one completion for each sample in vLLM's output for a request."""
    for sample in output.outputs:
        if sample.finish_reason not in ("stop", "length"):
            raise EngineLostError(f"vLLM ended a reply before it was finished: {sample.finish_reason}")
    return [
        Completion(
            text=sample.text,
            finish_reason=sample.finish_reason,
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(sample.token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )
        for sample in output.outputs
    ]
