"""Reads the one new prompt in a model's reply to an operator, or says in a few fixed words why there is none."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fittest.evo.markup import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_READ = 1_000_000

_Reason = Literal["empty", "only markup", "meta talk", "no tags", "unreadable characters", "unfinished"]

# control characters but tab and line ends, lone surrogates, and the mark that replaces what could not be decoded
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
# a tag of ours, a closing tag cut off by the token limit, or the marker with which a chat template ends a turn
_BOUNDARY = re.compile(
    r"<\s*+(?P<closing>/?)\s*+task\b[^<>\n]*>?|</(?:t(?:as?)?)?\Z"
    rf"|{FORMATS}",
    re.IGNORECASE,
)
# what a chat says on the way to the task
_COURTESY = r"(?:sure|certainly|of course|absolutely|okay|ok|great)"
_HERE = r"here(?:['’]s| is| are)"
# "10.", "10. (rain, sea)", "Deeper task:" or "Here is …:" on a last line of its own, before a tag that opens an item
_LEAD_IN = re.compile(
    rf"(?:\A|\n)[^\S\n]*+(?:\d{{1,3}}\s*[.)](?:\s*\([^()\n]*\))?|[^\n:]{{1,40}}:|(?:{_COURTESY}|{_HERE})\b[^\n]*:)\s*\Z",
    re.IGNORECASE,
)
# what stands between two tags that are only spoken of, as in "between <task> and </task>"
_SPOKEN_OF = re.compile(r"\W*+(?:and|or|to|tags?)?+\W*+\Z", re.IGNORECASE)
_NUMBERED_LINE = re.compile(r"(?:\A|\n)[ \t]*(\d{1,3})[.)][ \t]")
_OWN_NUMBER = re.compile(r"\A\s*(?:[-*•]\s+|#?\d{1,3}\s*[.):]\s+)")
_OWN_LABEL = re.compile(
    r"\A\W*(?:(?:new |next |user |sample |deeper |stricter |concrete )?(?:task|prompt|instruction|question|user)"
    r"|in other words|other subject)\b[\s\d*]*:[\s*]*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    rf"\A(?P<bold>\*\*)?(?:{_COURTESY}\b[^\n]*:\s*\n"
    rf"|(?:{_COURTESY}\b\W*)?{_HERE}\b[^\n:]{{0,300}}\b(?:task|prompt|question|instruction|example)s?\b[^\n:]{{0,300}}:)"
    r"(?(bold)\*\*)\s*",
    re.IGNORECASE,
)
# what a chat says about its task afterwards
_REMARK = re.compile(
    r"\n[ \t]*\n\W{0,3}(?:this (?:new )?(?:task|prompt|question|version)\b|note\b|let me know\b|i hope\b).*\Z",
    re.IGNORECASE | re.DOTALL,
)
_REFUSAL = re.compile(
    r"\A(?:as an ai\b|i(?:['’]m| am) (?:sorry,? but|unable to)|sorry, (?:but )?i can"
    r"|i can(?:no|['’])t (?:help|assist|fulfil|comply))",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"(?:\A|\n)[ \t]*\W{0,3}(?:expected output|output|answer|response|solution|assistant|explanation)\W{0,3}:.*\Z",
    re.IGNORECASE | re.DOTALL,
)
_FENCED = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…。！？।؟][\"'”’»)\]*`]*\Z")
_NUMBER_LAST = re.compile(r"(?<!\d)\d{1,3}\.\Z")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Says why a reply holds no prompt; there are few reasons, because they are counted."""

    reason: _Reason


def parse_candidate(reply: str, finish_reason: Literal["stop", "length"], *, thinks: bool = False) -> str | Unusable:
    """Returns the prompt in a reply, which either continues after an opening tag or holds the tags itself.

    A reply that continues may go on with more items, and the first usable one counts. A chat comes to its task at the
    end of what it says, so of several complete pairs of tags the last usable one counts; if a chat has left the tags
    out, all that it says is read as one item.

    A reply that was cut at the token limit is usable only if it closes an item or happens to end a sentence: half a
    task is not a task. Sections that answer the task are removed; the task itself is kept, with its line breaks.

    A reply that thinks first may quote tasks in its thoughts. Its task stands in the last tags, the closing one of
    which may be the text that ended it; without tags there is none.

    Of a reply of more than a million characters, the beginning is read.

    Args:
        reply: the text of the reply.
        finish_reason: "length" if the reply was cut at the token limit.
        thinks: whether the reply was asked to think before it writes the tags.

    Returns:
        The prompt, or why there is none.
    """
    if len(reply) > _MOST_READ:
        reply, finish_reason = reply[:_MOST_READ], "length"
    if not reply.strip():
        return Unusable("empty")
    ended = finish_reason == "stop"
    if thinks:
        last = _last_tagged(reply, ended=ended)
        return Unusable("no tags" if ended else "unfinished") if last is None else _candidate(last[0], closed=last[1])
    found: list[Unusable] = []
    for item, closed in _tagged(reply) or _items(reply, ended=ended):
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


def _tagged(reply: str) -> list[tuple[str, bool]]:
    """Returns what stands between a tag that opens and the next, which closes, the last pair first.

    There are none if the first tag closes: such a reply continues after a tag, and goes on with items of its own.
    """
    tags = [boundary for boundary in _BOUNDARY.finditer(reply) if boundary["closing"] is not None]
    if not tags or tags[0]["closing"]:
        return []
    pairs = [
        reply[one.end() : other.start()]
        for one, other in itertools.pairwise(tags)
        if other["closing"] and not one["closing"]
    ]
    return [(item, True) for item in reversed(pairs) if not _SPOKEN_OF.match(item)]


def _last_tagged(reply: str, *, ended: bool) -> tuple[str, bool] | None:
    """Returns what stands after the last tag that opens, and whether it is complete; None without such a tag."""
    found, after = None, None
    for boundary in reversed(list(_BOUNDARY.finditer(reply))):
        if boundary["closing"] == "":
            item = reply[boundary.end() : len(reply) if after is None else after.start()]
            if after is None or not _SPOKEN_OF.match(item):
                found = item, ended or after is not None
                break
        after = boundary
    return found


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
    """Returns the item without its list number and label, and without what a chat says before and after it."""
    item, preambles = _PREAMBLE.subn("", item.strip(), count=1)
    if preambles:
        # only there: a task may well end with a note
        item = _REMARK.sub("", item)
    for lead in (_OWN_NUMBER, _OWN_LABEL):
        item = lead.sub("", item.strip(), count=1)
    return item


def _unwrapped(text: str) -> str:
    """Returns the text without a code fence or quotation marks around all of it."""
    fenced = _FENCED.match(text)
    if fenced and "```" not in fenced[1]:
        return fenced[1].strip()
    if len(text) > 4 and text.startswith("**") and text.endswith("**") and "*" not in text[2:-2]:
        return _unwrapped(text[2:-2].strip())
    inside = text[1:-1]
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(inside):
        return inside.strip()
    return text


def _ends_a_sentence(text: str) -> bool:
    return bool(_SENTENCE_END.search(text)) and not _ends_with_a_bare_number(text)


def _ends_with_a_bare_number(text: str) -> bool:
    """Tells whether the last line is the number of a list alone."""
    number = _NUMBER_LAST.search(text)
    if number is None:
        return False
    before = text[: number.start()]
    line_before = before.rstrip()
    return not line_before or "\n" in before[len(line_before) :]
