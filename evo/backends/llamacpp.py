"""Provides the embedded engine: llama.cpp in this process, through xllamacpp, with continuous batching.

xllamacpp cannot be had without its HTTP server, whose answers any page in a browser could read. So it listens on a
socket that has no name any more once it is open, and wants a key that nobody knows.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from fittest.evo.errors import EngineLostError, FittestError, RequestFailedError
from fittest.evo.markup import Markup
from fittest.evo.pretrained.fingerprints import file_fingerprint
from fittest.evo.pretrained.gguf_header import read_gguf_header
from fittest.evo.pretrained.templates import check_template
from fittest.evo.records import Completion, Request

_CLIENT_ERRORS = range(400, 500)
# the name of a socket has at most 107 bytes, or 103 on macOS
_LONGEST_FOLDER = 80


class LlamaCpp:
    """Runs a GGUF model in this process; each request has a thread, which stops between tokens at the end of a run.

    Args:
        model: a GGUF file.
        slots: sequences decoded together.
        context: tokens of prompt and completion that one sequence may hold.
        threads: CPU threads; 0 takes one for each core.
        adapter: a LoRA adapter as GGUF, applied to all requests.

    Raises:
        FittestError: a file does not exist.
    """

    def __init__(
        self, *, model: Path, slots: int = 16, context: int = 2048, threads: int = 0, adapter: Path | None = None
    ) -> None:
        for key, file in (("model", model), ("adapter", adapter)):
            if file is not None and not file.is_file():
                raise FittestError(f"engine.{key}: no GGUF file at {file}")
        self.slots = slots
        self.fingerprint = f"llamacpp:{file_fingerprint(model)}"
        if adapter is not None:
            self.fingerprint += f":{file_fingerprint(adapter)}"
        self._model = model
        self._adapter = adapter
        self._context = context
        self._threads = threads or os.cpu_count() or 1
        self._leaving = False
        self._markup = Markup(None)
        self._server: Any = None

    async def __aenter__(self) -> Self:
        self._callers = ThreadPoolExecutor(max_workers=self.slots, thread_name_prefix="llamacpp")
        self._server = await asyncio.get_running_loop().run_in_executor(self._callers, self._load)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._leaving = True
        await asyncio.to_thread(self._callers.shutdown)
        self._server = None

    async def sample(self, request: Request) -> Completion:
        """Answers one request; a seeded request alone in the engine repeats exactly, one in company may not."""
        return await asyncio.get_running_loop().run_in_executor(self._callers, partial(self._sample, request))

    def _load(self) -> Any:
        try:
            import xllamacpp
        except ImportError:
            raise FittestError('engine.kind = "llamacpp" needs xllamacpp: pip install "fittest[embedded]"') from None
        self._check_files()
        params = xllamacpp.CommonParams()
        params.model.path = str(self._model)
        if self._adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(self._adapter), 1.0)]
        params.n_parallel = self.slots
        params.n_ctx = self.slots * self._context  # llama.cpp divides it among the sequences
        params.cpuparams.n_threads = self._threads
        params.cpuparams_batch.n_threads = self._threads
        # polling threads spin on cores that rewards and embeddings need; sleeping ones decode no slower
        params.cpuparams.poll = params.cpuparams_batch.poll = 0
        params.warmup = False  # an empty run of the model, which would only delay the first request
        params.verbosity = -1  # llama.cpp would write over the run's own display
        try:
            return self._started(xllamacpp, params)
        except RuntimeError as error:
            raise FittestError(f"engine.model: {self._model} cannot be loaded by llama.cpp: {error}") from None

    def _check_files(self) -> None:
        """Refuses what llama.cpp would end this process at, and a chat template that does not end."""
        for key, file in (("model", self._model), ("adapter", self._adapter)):
            if file is None:
                continue
            try:
                header = read_gguf_header(file)
            except FittestError as error:
                raise FittestError(f"engine.{key}: {file} cannot be loaded by llama.cpp: {error}") from None
            if key == "model":
                check_template(header.template, f"engine.model: {file}")
                self._markup = header.markup()

    def _started(self, xllamacpp: Any, params: Any) -> Any:
        """Starts the server behind a socket that nobody can find: its folder is private, and is removed at once."""
        usual = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(
            dir=usual if len(os.fsencode(usual)) <= _LONGEST_FOLDER else "/tmp"
        ) as private:
            params.hostnames = [str(Path(private, "unused.sock"))]
            params.api_keys = [secrets.token_hex(32)]
            params.cors_origins = ""
            params.ui = False
            return xllamacpp.Server(params)

    def _sample(self, request: Request) -> Completion:
        reply = _Stream()
        handle = (
            self._server.handle_completions if request.prompt is not None else self._server.handle_chat_completions
        )
        try:
            handle(_body(self._markup.in_request(request)), partial(self._take, reply))
        except RuntimeError as error:
            raise RequestFailedError(f"llama.cpp: {error}") from None
        return reply.completion()

    def _take(self, reply: _Stream, chunk: dict[str, Any]) -> bool:
        """Adds one chunk; a result of True ends the stream, which is how a request is cancelled between tokens."""
        reply.add(chunk)
        return self._leaving


@dataclass
class _Stream:
    """Collects a reply while it arrives."""

    parts: list[str] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any]) -> None:
        self.error = self.error or chunk.get("error")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", []):
            self.parts.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def completion(self) -> Completion:
        if self.error is not None:
            message = f"{self.error.get('type', 'error')}: {self.error.get('message', '')}"
            if self.error.get("code") in _CLIENT_ERRORS:
                raise RequestFailedError(message)
            raise EngineLostError(f"llama.cpp: {message}")
        if self.finish_reason is None:
            raise EngineLostError("llama.cpp ended a reply before it was finished")
        return Completion(
            text="".join(self.parts),
            finish_reason=self.finish_reason,
            prompt_tokens=self.usage.get("prompt_tokens", 0),
            completion_tokens=self.usage.get("completion_tokens", 0),
            cached_tokens=(self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        )


def _body(request: Request) -> dict[str, Any]:
    """Writes the request in llama.cpp's form; min-p, top-k and penalties are off: the paper samples by top-p alone."""
    content: dict[str, Any] = (
        {"messages": [message._asdict() for message in request.messages]}
        if request.prompt is None
        else {"prompt": request.prompt}
    )
    return content | {
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "max_tokens": request.sampling.max_tokens,
        "stop": list(request.sampling.stop),
        "seed": request.seed,
        # as a stream, a request can be left between two tokens, and the end of a run need not wait for it
        "stream": True,
        "stream_options": {"include_usage": True},
    }
