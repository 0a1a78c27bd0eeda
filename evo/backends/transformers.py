"""Provides the engine `transformers`: any causal model in this process, with or without a LoRA adapter.

Samples of one prompt are drawn together: the prompt is read once, and all of them use its cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fittest.evo.errors import FittestError, RequestFailedError
from fittest.evo.pretrained.chats import chat_tokens, markup_of
from fittest.evo.pretrained.device import torch_device
from fittest.evo.pretrained.loading import (
    adapter_id,
    context_length,
    load_pretrained,
    pretrained_id,
    with_adapter,
)
from fittest.evo.records import Completion, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fittest.evo.records import Message

_Waiting = tuple[Request, "asyncio.Future[Completion]"]


class Transformers:
    """Samples from a causal language model; each draw of a token follows from the seed of its request.

    Args:
        model: a folder, a GGUF file (dequantised) or a name on the hub.
        adapter: a folder that PEFT wrote for this model.
        slots: sequences decoded together; only samples of the same prompt are.
        context: tokens of prompt and completion; None takes what the model reads.
        device: a torch device, or "auto", which prefers an accelerator.
        dtype: the precision of the weights, by torch's name.

    Raises:
        FittestError: the folder holds no adapter.
    """

    def __init__(
        self,
        *,
        model: str | Path,
        adapter: str | Path | None = None,
        slots: int = 16,
        context: int | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.model = str(model)
        self.adapter = None if adapter is None else Path(adapter)
        self.slots = slots
        self._given_context = context
        self._device = device
        self._dtype = dtype
        self._waiting: list[_Waiting] = []
        if self.adapter is not None and not (self.adapter / "adapter_config.json").is_file():
            raise FittestError(f"engine.adapter: no adapter_config.json in {self.adapter}; expected what PEFT wrote")

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the model, its precision, the adapter, and the context where it is set."""
        own = f"transformers:{pretrained_id(self.model)}:{self._dtype}"
        if self._given_context is not None:
            own = f"{own}:context={self._given_context}"
        return own if self.adapter is None else f"{own}:{adapter_id(self.adapter)}"

    async def __aenter__(self) -> Self:
        self._wake = asyncio.Event()
        await asyncio.to_thread(lambda: self.network)  # loads the model now, without blocking the loop
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._worker.cancel()
        await asyncio.wait([self._worker])  # unlike awaiting the task, this does not raise its cancellation

    async def sample(self, request: Request) -> Completion:
        """Answers one request, together with the others of its prompt that are waiting."""
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self._wake.set()
        return await answer

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers requests that differ in sample and seed alone; unlike elsewhere, each sample has its own seed."""
        first, *others = await asyncio.gather(*map(self.sample, requests))
        return [first, *(replace(reply, prompt_tokens=0) for reply in others)]

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)  # lets requests that were sent together arrive before the first is begun
            group = self._next_group()
            if not self._waiting:
                self._wake.clear()
            try:
                replies = await asyncio.to_thread(self._sampled, [request for request, _ in group])
            except Exception as error:
                # raised where the reply is awaited, so that the failure of one group does not end this task
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), reply in zip(group, replies, strict=True):
                if not answer.done():
                    answer.set_result(reply)

    def _next_group(self) -> list[_Waiting]:
        """Takes the first request that waits, and others of the same text and sampling."""
        first = self._waiting[0][0]
        same = [
            position
            for position, (request, _) in enumerate(self._waiting)
            if (request.messages, request.prompt, request.sampling) == (first.messages, first.prompt, first.sampling)
        ][: self.slots]
        group = [self._waiting[position] for position in same]
        self._waiting = [waiting for position, waiting in enumerate(self._waiting) if position not in set(same)]
        return group

    def _sampled(self, requests: Sequence[Request]) -> list[Completion]:
        import torch

        sampling = requests[0].sampling
        prompt = self.tokens(requests[0].messages, requests[0].prompt)
        room = sampling.max_tokens if self.context is None else min(sampling.max_tokens, self.context - len(prompt))
        if room < 1 or not prompt:
            raise RequestFailedError(f"prompt of {len(prompt)} tokens; the model reads 1 to {self.context}")
        texts = [_Text(seed=request.seed) for request in requests]
        with torch.inference_mode():
            read = self.network(input_ids=self._tensor([prompt]), use_cache=True, logits_to_keep=1)
            cache, logits = read.past_key_values, read.logits[:, -1].repeat(len(texts), 1)
            cache.batch_repeat_interleave(len(texts))
            going = list(texts)
            while True:
                chances = _probabilities(logits, sampling.temperature, sampling.top_p)
                for text, row in zip(going, chances, strict=True):
                    self._take(text, row, sampling.stop, room)
                kept = [position for position, text in enumerate(going) if text.finish is None]
                if not kept:
                    break
                # finished texts leave the batch, and their part of the cache is freed
                if len(kept) < len(going):
                    cache.batch_select_indices(torch.tensor(kept, device=self.network.device))
                    going = [going[position] for position in kept]
                step = self._tensor([[text.tokens[-1]] for text in going])
                read = self.network(input_ids=step, past_key_values=cache, use_cache=True)
                cache, logits = read.past_key_values, read.logits[:, -1]
        return [
            Completion(text.shown, "length" if text.finish == "length" else "stop", len(prompt), len(text.tokens))
            for text in texts
        ]

    def _take(self, text: _Text, chances: NDArray[np.float64], stops: Sequence[str], room: int) -> None:
        """Draws the next token of one text, and finds out whether that ends it."""
        # drawn by NumPy and not by torch, whose generators give other numbers on other devices
        token = int(np.searchsorted(np.cumsum(chances), text.rng.random() * chances.sum(), side="right"))
        # the sum and the last cumulated chance may differ in their last bits, and the draw fall between them
        token = min(token, len(chances) - 1)
        text.tokens.append(token)
        if token in self._ends:
            text.finish = "stop"
            return
        # the whole text anew: a character may consist of several tokens, and so may a stop string
        text.shown = self.tokenizer.decode(text.tokens, skip_special_tokens=True)
        ends = [place for stop in stops if (place := text.shown.find(stop)) >= 0]
        if ends:
            text.shown, text.finish = text.shown[: min(ends)], "stop"
        elif len(text.tokens) >= room:
            text.finish = "length"

    def tokens(self, messages: Sequence[Message], prompt: str | None = None, begun: str = "") -> list[int]:
        """Returns the tokens of a chat up to where the answer begins, or of a text.

        Args:
            messages: the chat.
            prompt: the text; None if it is a chat.
            begun: the answer so far.

        Raises:
            FittestError: it is a chat, and the tokenizer has no chat template.
        """
        if prompt is not None:
            return list(self.tokenizer(markup_of(self.tokenizer).defused(prompt + begun)).input_ids)
        return chat_tokens(self.tokenizer, messages, begun)

    def _tensor(self, rows: list[list[int]]) -> Any:
        import torch

        return torch.tensor(rows, device=self.network.device)

    @cached_property
    def context(self) -> int | None:
        """Returns how many tokens prompt and completion may have together; None where the model has no bound."""
        given = [length for length in (self._given_context, context_length(self.network.config)) if length]
        return min(given, default=None)

    @cached_property
    def tokenizer(self) -> Any:
        """Returns the model's tokenizer, which is read on first use."""
        return load_pretrained("AutoTokenizer", self.model)

    @cached_property
    def network(self) -> Any:
        """Returns the model with its adapter merged in, which is read on first use."""
        import torch

        network = load_pretrained("AutoModelForCausalLM", self.model, dtype=getattr(torch, self._dtype))
        if self.adapter is not None:
            network = with_adapter(network, self.adapter)
        return network.to(torch_device(self._device)).eval()

    @cached_property
    def _ends(self) -> set[int]:
        """Returns the tokens that end an answer."""
        configured = self.network.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        return {token for token in (*several, self.tokenizer.eos_token_id) if token is not None}


class _Text:
    """Holds one answer while it is drawn."""

    def __init__(self, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokens: list[int] = []
        self.shown = ""
        self.finish: str | None = None


def _probabilities(logits: Any, temperature: float, top_p: float) -> NDArray[np.float64]:
    """Returns the chance of each next token, shape (texts, vocabulary), not normalised after the top-p cut."""
    # float64 on the CPU, so that the sums by which a token is drawn and cut do not depend on the device
    scores: NDArray[np.float64] = logits.double().cpu().numpy()
    if temperature == 0:
        return np.asarray(np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None], dtype=np.float64)
    scores = scores / temperature
    chances: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    if top_p < 1:
        # the fewest tokens whose chances add up to top_p, and all that are as likely as the last of them: which of
        # equal tokens a sort puts first must not decide
        ranked = np.sort(chances, axis=1)[:, ::-1]
        kept = np.count_nonzero(ranked.cumsum(axis=1) - ranked < top_p, axis=1)
        chances[chances < np.take_along_axis(ranked, kept[:, None] - 1, axis=1)] = 0.0
    return chances
