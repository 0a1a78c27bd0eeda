"""Reads the one new prompt in a model's reply to an operator, or says in a few fixed words why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

_Reason = Literal["empty", "only markup", "meta talk", "unreadable characters", "unfinished"]

# control characters but tab and line ends, lone surrogates, and the mark that replaces what could not be decoded
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
# a tag of ours, a closing tag cut off by the token limit, or the marker with which a chat template ends a turn
_BOUNDARY = re.compile(
    r"<\s*(?P<closing>/?)\s*task\b[^<>\n]*>?|</(?:t(?:as?)?)?\Z"
    r"|<\|[^|<>\n]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]",
    re.IGNORECASE,
)
# "10." or "Deeper task:" on a last line of its own, before a tag that opens the next item
_LEAD_IN = re.compile(r"(?:\A|\n)\s*(?:\d{1,3}\s*[.)]|[^\n:]{1,40}:)\s*\Z")
_NUMBERED_LINE = re.compile(r"(?:\A|\n)[ \t]*(\d{1,3})[.)][ \t]")
_OWN_NUMBER = re.compile(r"\A\s*(?:[-*•]\s+|#?\d{1,3}\s*[.):]\s+)")
_OWN_LABEL = re.compile(
    r"\A\W*(?:new |next |user |sample )?(?:task|prompt|instruction|question|user)\b[\s\d*]*:[\s*]*", re.I
)
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|great)\b[^\n]*:\s*\n"
    r"|here(?:'s| is| are)\b[^\n:]*\b(?:task|prompt|question|instruction|example)s?\b[^\n:]*:)\s*",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\A(?:as an ai\b|i(?:'m| am) (?:sorry,? but|unable to)|sorry, (?:but )?i can"
    r"|i can(?:no|')t (?:help|assist|fulfil))",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"(?:\A|\n)[ \t]*\W{0,3}(?:expected output|output|answer|response|solution|assistant|explanation)\W{0,3}:.*\Z",
    re.IGNORECASE | re.DOTALL,
)
_FENCED = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…。！？।؟][\"'”’»)\]*`]*\Z")
_BARE_NUMBER_LAST = re.compile(r"(?:\A|\n)\s*\d{1,3}\.\Z")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Says why a reply holds no prompt; there are few reasons, because they are counted."""

    reason: _Reason


def parse_candidate(reply: str, finish_reason: Literal["stop", "length"]) -> str | Unusable:
    """Returns the first usable prompt in a reply that continues after an opening tag.

    A reply that was cut at the token limit is usable only if it closes an item or happens to end a sentence: half a
    task is not a task. Sections that answer the task are removed; the task itself is kept, with its line breaks.

    Args:
        reply: the text of the reply.
        finish_reason: "length" if the reply was cut at the token limit.

    Returns:
        The prompt, or why there is none.
    """
    if not reply.strip():
        return Unusable("empty")
    found: list[Unusable] = []
    for item, closed in _items(reply, ended=finish_reason == "stop"):
        candidate = _candidate(item, closed=closed)
        if isinstance(candidate, str):
            return candidate
        found.append(candidate)
    # "only markup" is said of the empty stretches between tags too, so any other reason tells more
    return next((unusable for unusable in found if unusable.reason != "only markup"), Unusable("only markup"))


def unreadable_character(text: str) -> str | None:
    """Returns the first control, lone surrogate or replacement character as "U+0000"; tab and line ends are fine."""
    found = _UNREADABLE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def _items(reply: str, *, ended: bool) -> Iterator[tuple[str, bool]]:
    """Yields each stretch between boundaries, and whether it is complete."""
    start = 0
    for boundary in _BOUNDARY.finditer(reply):
        opens = boundary["closing"] == ""
        stretch = reply[start : boundary.start()]
        yield from _numbered(_LEAD_IN.sub("", stretch) if opens else stretch, ended=True)
        start = boundary.end()
    yield from _numbered(reply[start:], ended=ended)


def _numbered(stretch: str, *, ended: bool) -> Iterator[tuple[str, bool]]:
    """Splits a stretch where a list of tasks continues without tags; a list that begins at 1 belongs to its task."""
    following = next(_NUMBERED_LINE.finditer(stretch.lstrip(), 1), None)
    if following is None or following[1] == "1":
        yield stretch, ended
        return
    yield stretch.lstrip()[: following.start()], True
    yield stretch.lstrip()[following.start() :], ended


def _candidate(item: str, *, closed: bool) -> str | Unusable:
    text, answers = _ANSWER.subn("", _without_lead(item))
    text = _unwrapped(text.strip())
    if not any(character.isalnum() for character in text):
        return Unusable("only markup")
    if _UNREADABLE.search(text):
        return Unusable("unreadable characters")
    if _REFUSAL.match(text):
        return Unusable("meta talk")
    if not (closed or answers or _ends_a_sentence(text)):
        return Unusable("unfinished")
    return text


def _without_lead(item: str) -> str:
    """Returns the item without its preamble, list number and label."""
    for lead in (_PREAMBLE, _OWN_NUMBER, _OWN_LABEL):
        item = lead.sub("", item.strip(), count=1)
    return item


def _unwrapped(text: str) -> str:
    """Returns the text without a code fence or quotation marks around all of it."""
    fenced = _FENCED.match(text)
    if fenced and "```" not in fenced[1]:
        return fenced[1].strip()
    inside = text[1:-1]
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(inside):
        return inside.strip()
    return text


def _ends_a_sentence(text: str) -> bool:
    return bool(_SENTENCE_END.search(text)) and not _BARE_NUMBER_LAST.search(text)
