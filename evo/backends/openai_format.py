"""Reads the replies and errors of OpenAI-compatible servers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain, repeat
from typing import Any, Literal, TypeGuard

from fittest.evo.backends.servers import Cause, Trouble
from fittest.evo.errors import RequestFailedError
from fittest.evo.records import Completion, Failure
from fittest.evo.spending import tokens_in
from fittest.evo.visible import visible

_LONGEST_WORDS = 200
# of what a server says about an error, so much is looked at: more of it says nothing new
_MOST_WORDS = 10_000
# a size in bytes alone is not enough: a million small values in a reply hold up everything else for a second
_VALUES_PER_MIB = 2**13
_SMALL = 2**16
# one without an end goes as far as there is something, or each quotation mark in it would be tried as a beginning
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BEGIN_VALUES = (b",", b"[", b"{")
_MOST_DIGITS = 40
# the longest token of any vocabulary is a line of some hundred spaces or dashes
_LONGEST_TOKEN = 1024
_LONGEST_TEXT = 2**20
# 529 is in no RFC; some hosted services mean "overloaded" by it
_TRY_AGAIN_LATER = {429, 503, 529}
_TOOK_TOO_LONG = {408, 504}
# conflict, too early: they are about the moment and not about the request
_TRY_AGAIN = {409, 425}
# servers report a prompt that is too long under various statuses, so the words are looked at first
_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)|exceed_context|request too large|prompt is too long", re.I)
_MODERATED = re.compile(
    r"content.{0,3}(filter|management|policy)|moderation|flagged|safety system|inappropriate", re.I
)
# a model that thinks may need more than a trial allows, and some services call that a bad request
_CUT = re.compile(r"output limit was reached|higher max_(completion_)?tokens", re.I)
# the words of OpenAI, and those of others for the same
_ENDINGS: dict[str, Literal["stop", "length"]] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip

NOT_SERVED = frozenset({404, 405, 410, 501})
"""The statuses by which a server says that it does not know the path or the model."""

_TOO_LARGE = {413, 414, 431}


def reply_of(content: bytes, items: str, item: type = dict, *, most: int = 2**24) -> dict[str, Any] | None:
    """Reads a reply with a list of items, such as "choices"; None where the server put an error in its place.

    Args:
        content: the body of the reply.
        items: the key of the list.
        item: the type of its items.
        most: the most bytes that a body may have; it also says how many values one may hold.

    Raises:
        Trouble: the body is neither of both; another try may succeed.
    """
    # Python holds up all its threads while it reads JSON, so the time that takes is bounded before
    values = most // 2**20 * _VALUES_PER_MIB
    if len(content) > _SMALL and _values_in(content, values) > values:
        raise Trouble(Cause.BROKEN, f"the reply holds more than {values} values, the most that max_reply_mib allows")
    try:
        reply = json.loads(content) if len(content) <= _SMALL else json.loads(content, parse_int=_int_of)
    except (ValueError, RecursionError):
        raise Trouble(Cause.BROKEN, "the reply is not JSON") from None
    found = reply.get(items) if isinstance(reply, dict) else None
    if isinstance(found, list) and found and all(isinstance(one, item) for one in found):
        return dict(reply)
    if isinstance(reply, dict) and reply.get("error"):
        return None
    raise Trouble(Cause.BROKEN, f"the reply has no {items}")


def _values_in(content: bytes, most: int) -> int:
    """Returns no less than the number of values in a body, and not many more if its texts hold more than `most` signs.

    To leave texts out takes time for each quotation mark, so of a body with too many of those no text is left out.
    """
    if sum(map(content.count, _BEGIN_VALUES)) > most and content.count(b'"') <= 4 * most:
        content = _STRING.sub(b"", content)
    return sum(map(content.count, _BEGIN_VALUES))


def _int_of(digits: str) -> float:
    """Returns a whole number; one with more digits than any count has takes long to read, and is infinite."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


def longest_text(max_tokens: int | None) -> int:
    """Returns the most characters that an answer of so many tokens may have.

    Args:
        max_tokens: the limit that the server was given; None if it was given none.
    """
    return _LONGEST_TEXT if max_tokens is None else min(_LONGEST_TEXT, _LONGEST_TOKEN * max_tokens)


def completions_of(
    reply: Mapping[str, Any], *, most: int | None = None, longest: int = _LONGEST_TEXT
) -> list[Completion | Failure]:
    """Returns the choices of a reply; tokens that the server does not count are 0.

    Servers count tokens for all choices together. Those of the prompt are counted with the first choice that has a
    text. Those of the completions are divided among the choices that have one, since a failure is charged with none.

    Args:
        reply: the reply, with at least one choice.
        most: how many choices were asked for; some servers give more.
        longest: the most characters that an answer may have, and what was thought before it.

    Raises:
        Trouble: an answer is longer than any that was asked for.
    """
    usage = reply.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    read = _count(usage, "prompt_tokens")
    # never more than were read: the count of uncached tokens, which have the full price, would become negative
    cached = min(_count(details, "cached_tokens"), read)
    found = [_answer_of(choice, longest) for choice in _in_order(reply["choices"])[:most]]
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    if _count(details, "reasoning_tokens"):
        # some services count what the model thought and do not show it
        found = [replace(one, reasoning="") if _says_nothing(one) else one for one in found]
    texts = sum(isinstance(answer, Completion) for answer in found)
    each, rest = divmod(_count(usage, "completion_tokens"), max(1, texts))
    counts = chain([(read, each + rest, cached)], repeat((0, each, 0)))
    return [_counted(answer, *next(counts)) if isinstance(answer, Completion) else answer for answer in found]


def _says_nothing(answer: Completion | Failure) -> TypeGuard[Completion]:
    return isinstance(answer, Completion) and not answer.text and answer.reasoning is None


def _counted(answer: Completion, read: int, written: int, cached: int) -> Completion:
    return replace(answer, prompt_tokens=read, completion_tokens=written, cached_tokens=cached)


def _in_order(choices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns choices in the order of their own count, each once; without a count for each they stay as they are."""
    counts: list[Any] = [choice.get("index") for choice in choices]
    if len(choices) == 1 or not all(type(count) is int for count in counts):
        return list(choices)
    first = dict(zip(reversed(counts), reversed(choices), strict=True))
    return [first[count] for count in sorted(first)]


def _answer_of(choice: Mapping[str, Any], longest: int) -> Completion | Failure:
    """Reads one choice, whose tokens are not counted yet."""
    reason = choice.get("finish_reason")
    reason = reason if reason is None or isinstance(reason, str) else f"a {type(reason).__name__}"
    message = choice.get("message")
    ended = _ENDINGS.get(reason) if isinstance(reason, str) else None
    if ended is None:
        return Failure(_storable(f"finish_reason is {reason}"))
    text, reasoning = _parts_of(message) if isinstance(message, dict) else (choice.get("text"), None)
    if text is None and reasoning:
        text = ""  # the model was cut while it thought, or has thought and said nothing
    if not isinstance(text, str):
        return Failure(f"the reply has no text (finish_reason is {reason})")
    if len(text) + len(reasoning or "") > longest:
        raise Trouble(Cause.BROKEN, f"the answer has more than {longest} characters, which no model writes")
    return Completion(_storable(text), ended, 0, 0, reasoning=_storable(reasoning) if reasoning else None)


def _parts_of(message: Mapping[str, Any]) -> tuple[object, str | None]:
    """Returns the text of a message, and what the model thought before it, if the server keeps the two apart."""
    found = (message.get(name) for name in ("reasoning_content", "reasoning"))
    reasoning = next((value for value in found if isinstance(value, str) and value), None)
    content = message.get("content")
    if not isinstance(content, list):
        return content, reasoning
    # some services give the message in parts, of which those of the kind "thinking" hold parts again
    parts = [part for part in content if isinstance(part, dict)]
    thought = [_joined(part["thinking"]) for part in parts if part.get("type") == "thinking" and "thinking" in part]
    return _joined([part for part in parts if part.get("type") == "text"]), reasoning or "".join(thought) or None


def _joined(parts: object) -> str:
    """Returns the texts of parts in one; a text in place of parts is returned as it is."""
    if isinstance(parts, str):
        return parts
    texts = (part.get("text") for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return "".join(text for text in texts if isinstance(text, str))


def _storable(text: str) -> str:
    """Returns the text without halves of surrogate pairs, which are valid JSON, but no text that can be stored."""
    return text.encode(errors="replace").decode()


class Refused(RequestFailedError):  # noqa: N818 - as Trouble, named for what happened
    """Reports that a server refused a request.

    Args:
        words: the status and what the server said, in one line.
        status: the HTTP status.
        said: all that the server said.

    Attributes:
        alone: whether the refusal is about what this one request says, so that others may well be answered.
        cut: whether the model did answer, and was cut before it had said anything.
    """

    def __init__(self, words: str, *, status: int, said: str) -> None:
        super().__init__(words)
        self.status = status
        self.said = said
        self.cut = _CUT.search(said) is not None
        about_it = self.cut or _TOO_LONG.search(said) or _MODERATED.search(said)
        self.alone = status in _TOO_LARGE or bool(about_it)


def refusal(status: int, headers: Mapping[str, str], words: str, *, said: str = "") -> Trouble | Refused:
    """Returns the error that a refusal means for the request: Trouble to try again, Refused for never.

    Args:
        status: the HTTP status.
        headers: those of the reply, for `Retry-After`.
        words: what the server said, in one line.
        said: all that the server said, if that is more.
    """
    refused = Refused(words, status=status, said=said or words)
    if _TOO_LONG.search(refused.said):
        return refused
    if status in _TRY_AGAIN_LATER:
        return Trouble(Cause.BUSY, words, retry_after=_retry_after(headers))
    if status in _TOOK_TOO_LONG:
        return Trouble(Cause.TIMEOUT, words)
    if (status >= 500 and status not in NOT_SERVED) or status in _TRY_AGAIN:
        return Trouble(Cause.FAULT, words, retry_after=_retry_after(headers))
    return refused


def error_words(content: bytes) -> str:
    """Returns what a server says about an error, in any of the usual forms; a web page says nothing."""
    try:
        return _said(json.loads(content))[:_MOST_WORDS]
    except (ValueError, RecursionError):
        text = content[: 4 * _MOST_WORDS].decode(errors="replace").strip()
        return "" if text.startswith("<") else text[:_MOST_WORDS]


def _said(found: Any) -> str:
    """Returns the words of an error that is JSON; an error that nests too deep raises RecursionError."""
    if isinstance(found, list) and len(found) == 1:
        found = found[0]  # some services put the error into a list
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key) is not None:
            found = found[key]
    if isinstance(found, list) and found and all(isinstance(one, dict) and "msg" in one for one in found):
        # FastAPI repeats the whole request in each, with parameters that have nothing to do with the error
        found = "; ".join(f"{_place(one.get('loc'))}{one['msg']}" for one in found)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _place(found: object) -> str:
    """Returns the name of the field that an error of FastAPI is about, in quotes; the empty string without one."""
    return f"'{found[-1]}': " if isinstance(found, list) and found else ""


def parameter_in(content: bytes) -> str:
    """Returns the parameter that an error in OpenAI's form is about, in words; the empty string if it names none."""
    try:
        found = json.loads(content)
        error = (found[0] if isinstance(found, list) else found)["error"]
        parameter, code = error.get("param"), error.get("code")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    said = [f"parameter: {parameter}"] if isinstance(parameter, str) else []
    return " ".join([*said, code] if isinstance(code, str) else said)


def one_line(words: str) -> str:
    """Returns the words on one line, cut to 200 characters, and without anything that a terminal obeys."""
    line = visible(" ".join(words[:_MOST_WORDS].encode(errors="replace").decode().split()))
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
    return tokens_in(usage.get(name)) if isinstance(usage, dict) else 0
