"""Writes requests for OpenAI-compatible servers, and reads their replies and errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from fittest.evo.backends.servers import Cause, Trouble
from fittest.evo.errors import RequestFailedError
from fittest.evo.records import Completion, Failure, Message, Request, Sampling

_LONGEST_WORDS = 200
# 529 is in no RFC; some hosted services mean "overloaded" by it
_TRY_AGAIN_LATER = {429, 503, 529}
_TOOK_TOO_LONG = {408, 504}
# conflict, too early: they are about the moment and not about the request
_TRY_AGAIN = {409, 425}
# servers report a prompt that is too long under various statuses, so the words are looked at first
_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)|exceed_context|request too large|prompt is too long", re.I)


def path_and_body(request: Request, model: str, samples: int = 1) -> tuple[str, bytes]:
    """Returns the request in the form that all servers understand; keys that only some know are left out.

    Chats and raw texts go to different paths.

    Args:
        request: the request; of several samples, the first.
        model: the name that the servers know the model by.
        samples: how many choices the reply shall hold.
    """
    # the shared part is encoded once: encoding each body anew took a seventh of the client's CPU
    shared = _shared_body(model, request.messages, request.prompt, request.sampling)
    body = f'{shared}, "seed": {request.seed}, "n": {samples}}}'.encode()
    return ("/chat/completions" if request.prompt is None else "/completions"), body


@lru_cache(maxsize=256)
def _shared_body(model: str, messages: tuple[Message, ...], prompt: str | None, sampling: Sampling) -> str:
    """Writes what the samples of a prompt have in common, as JSON that is not closed yet."""
    body: dict[str, Any] = {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if prompt is None:
        body["messages"] = [message._asdict() for message in messages]
    else:
        body["prompt"] = prompt
    if sampling.stop:
        body["stop"] = sampling.stop
    return json.dumps(body)[:-1]


def reply_of(content: bytes, items: str, item: type = dict) -> dict[str, Any] | None:
    """Reads a reply with a list of items, such as "choices"; None where the server put an error in its place.

    Args:
        content: the body of the reply.
        items: the key of the list.
        item: the type of its items.

    Raises:
        Trouble: the body is neither of both; another try may succeed.
    """
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        raise Trouble(Cause.BROKEN, "the reply is not JSON") from None
    found = reply.get(items) if isinstance(reply, dict) else None
    if isinstance(found, list) and found and all(isinstance(one, item) for one in found):
        return dict(reply)
    if isinstance(reply, dict) and reply.get("error"):
        return None
    raise Trouble(Cause.BROKEN, f"the reply has no {items}")


def completions_of(reply: Mapping[str, Any]) -> list[Completion | Failure]:
    """Returns the choices of a reply; tokens that the server does not count are 0.

    Servers count tokens for all choices together. Those of the prompt are counted with the first choice that has a
    text. Those of the completions are divided among the choices that have one, since a failure is charged with none.

    Args:
        reply: the reply, with at least one choice.
    """
    usage = reply.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    read = _count(usage, "prompt_tokens")
    # never more than were read: the count of uncached tokens, which have the full price, would become negative
    cached = min(_count(details, "cached_tokens"), read)
    found = [_answer_of(choice) for choice in reply["choices"]]
    texts = sum(isinstance(answer, Completion) for answer in found)
    each, rest = divmod(_count(usage, "completion_tokens"), max(1, texts))
    counts = chain([(read, each + rest, cached)], repeat((0, each, 0)))
    return [
        Completion(answer.text, answer.finish_reason, *next(counts)) if isinstance(answer, Completion) else answer
        for answer in found
    ]


def _answer_of(choice: Mapping[str, Any]) -> Completion | Failure:
    """Reads one choice, whose tokens are not counted yet."""
    reason = choice.get("finish_reason")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    if reason not in ("stop", "length"):
        return Failure(f"finish_reason is {reason}")
    if not isinstance(text, str):
        return Failure(f"the reply has no text (finish_reason is {reason})")
    # half a surrogate pair is valid JSON, but no text that can be stored
    return Completion(text.encode(errors="replace").decode(), reason, 0, 0)


def refusal(status: int, headers: Mapping[str, str], words: str) -> Trouble | RequestFailedError:
    """Returns the error that a refusal means for the request: Trouble to try again, RequestFailedError for never.

    Args:
        status: the HTTP status.
        headers: those of the reply, for `Retry-After`.
        words: what the server said.
    """
    if _TOO_LONG.search(words):
        return RequestFailedError(words)
    if status in _TRY_AGAIN_LATER:
        return Trouble(Cause.BUSY, words, retry_after=_retry_after(headers))
    if status in _TOOK_TOO_LONG:
        return Trouble(Cause.TIMEOUT, words)
    if status >= 500 or status in _TRY_AGAIN:
        return Trouble(Cause.FAULT, words, retry_after=_retry_after(headers))
    return RequestFailedError(words)


def error_words(content: bytes) -> str:
    """Returns what a server says about an error, in any of the usual forms; a web page says nothing."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        text = content.decode(errors="replace").strip()
        return "" if text.startswith("<") else text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key) is not None:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def one_line(words: str) -> str:
    """Returns the words on one line, cut to 200 characters."""
    line = " ".join(words.encode(errors="replace").decode().split())
    return line if len(line) <= _LONGEST_WORDS else f"{line[: _LONGEST_WORDS - 1]}…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Reads the seconds that the server asks to wait, given as seconds or as a date; None when it does not say."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _count(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return max(0, count) if isinstance(count, int) else 0
