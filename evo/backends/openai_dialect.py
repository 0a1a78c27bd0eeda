"""Writes requests in the dialect that a server speaks: which parameters it takes, under which names, and what else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fittest.evo.markup import KNOWN
from fittest.evo.records import Message, Request, Sampling


@dataclass(frozen=True, slots=True)
class Continuation:
    """Says how a server is made to continue the last message of a chat, which is from the assistant.

    Attributes:
        body: keys of the body.
        message: keys of the last message.
    """

    body: tuple[tuple[str, Any], ...] = ()
    message: tuple[tuple[str, Any], ...] = ()


CONTINUATIONS = (
    # vLLM, SGLang and llama-server; without the keys, the first two would begin a new message
    Continuation(body=(("continue_final_message", True), ("add_generation_prompt", False))),
    # servers that refuse keys they do not know, and continue an answer anyway
    Continuation(),
    # the services of Mistral and DeepSeek
    Continuation(message=(("prefix", True),)),
)
"""The ways in which servers continue an answer, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Holds what the servers of one engine want otherwise than others do.

    Attributes:
        model: the name that the servers know the model by.
        extra_body: keys that are added to each body, as canonical JSON.
        omit: parameters that are not sent.
        token_limit: the name under which the limit on completion tokens is sent.
        continuation: how an answer is continued.
    """

    model: str
    extra_body: str = "{}"
    omit: frozenset[str] = frozenset()
    token_limit: str = "max_tokens"
    continuation: Continuation = CONTINUATIONS[0]

    @classmethod
    def of(cls, model: str, extra_body: Mapping[str, Any], omit: Sequence[str], token_limit: str) -> Dialect:
        """Returns the dialect of these keys of an engine section.

        Args:
            model: the name that the servers know the model by.
            extra_body: keys that are added to each body.
            omit: parameters that are not sent.
            token_limit: the name under which the limit on completion tokens is sent.
        """
        return cls(model, json.dumps(extra_body, sort_keys=True), frozenset(omit), token_limit)

    @property
    def fingerprint(self) -> str:
        """Identifies the model, and all that is sent otherwise than usual, since it changes replies."""
        special: dict[str, Any] = {}
        if self.extra_body != "{}":
            special["extra_body"] = json.loads(self.extra_body)
        if self.omit:
            special["omit"] = sorted(self.omit)
        if self.token_limit != "max_tokens":
            special["token_limit"] = self.token_limit
        if not special:
            return f"openai:{self.model}"
        canonical = json.dumps(special, sort_keys=True, separators=(",", ":"))
        return f"openai:{self.model}:{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def path_and_body(self, request: Request, samples: int = 1) -> tuple[str, bytes]:
        """Returns the path and the body of a request; chats and raw texts go to different paths.

        Args:
            request: the request; of several samples, the first.
            samples: how many choices the reply shall hold.
        """
        # the shared part is encoded once: encoding each body anew took a seventh of the client's CPU
        shared = _shared_body(self, request.messages, request.prompt, request.sampling)
        seed = "" if "seed" in self.omit else f', "seed": {request.seed}'
        number = "" if "n" in self.omit else f', "n": {samples}'
        return (
            "/chat/completions" if request.prompt is None else "/completions"
        ), f"{shared}{seed}{number}}}".encode()


def short(request: Request, tokens: int = 16) -> Request:
    """Returns a request that is answered quickly, as a trial of the one given; some models refuse fewer tokens.

    Args:
        request: the request.
        tokens: the limit on completion tokens.
    """
    return replace(request, sampling=replace(request.sampling, max_tokens=tokens))


def prefill_of(request: Request) -> str:
    """Returns the beginning of the answer that a request gives; the empty string if it gives none."""
    last = request.messages[-1] if request.prompt is None and request.messages else None
    return last.content if last is not None and last.role == "assistant" else ""


@lru_cache(maxsize=256)
def _shared_body(dialect: Dialect, messages: tuple[Message, ...], prompt: str | None, sampling: Sampling) -> str:
    """Writes what the samples of a prompt have in common, as JSON that is not closed yet."""
    body: dict[str, Any] = {"model": dialect.model}
    parameters = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": sampling.stop,
    }
    for name, value in parameters.items():
        if name not in dialect.omit and value != ():
            body[dialect.token_limit if name == "max_tokens" else name] = value
    if prompt is not None:
        body["prompt"] = KNOWN.defused(prompt)
    else:
        body["messages"] = [message._asdict() for message in KNOWN.in_messages(messages)]
        if messages and messages[-1].role == "assistant":
            body["messages"][-1] |= dict(dialect.continuation.message)
            body |= dict(dialect.continuation.body)
    body |= json.loads(dialect.extra_body)
    return json.dumps(body)[:-1]
