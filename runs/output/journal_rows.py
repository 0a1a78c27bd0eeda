"""Says what a sound row of each table of the journal is: its columns, what may stand in them, and its checksum."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fittest.evo.records import STAGES

MOST_BYTES = 64 * 2**20
"""No value of a journal is larger; a reply has at most 16 MiB, unless its limit was raised."""


class Table(NamedTuple):
    """Describes one table of the journal.

    Attributes:
        name: the table.
        columns: its columns in their order, without the checksum.
        checked: whether its rows have a checksum, since results depend on them.
        has_rowid: whether its rows lie in the order in which they were written, and not in that of their key.
        told: what its rows are called, and what becomes of those that are lost.
    """

    name: str
    columns: tuple[str, ...]
    checked: bool
    has_rowid: bool
    told: tuple[str, str]


REPLIES = Table(
    "replies",
    (
        "key", "sample", "text", "finish_reason", "prompt_tokens", "completion_tokens", "failure", "session", "at",
        "cached_tokens", "seconds", "reasoning", "stage",
    ),
    True, True, ("replies", "asked for again"),
)  # fmt: skip
MEASUREMENTS = Table(
    "measurements", ("fingerprint", "subject", "value", "missing"), True, False, ("measurements", "measured again")
)
EMBEDDINGS = Table("embeddings", ("fingerprint", "text", "vector"), True, False, ("embeddings", "computed again"))
MILESTONES = Table(
    "milestones", ("position", "event", "number"), True, True, ("milestones of the order of offspring", "decided anew")
)
META = Table("meta", ("name", "value"), True, False, ("facts about the run", "found anew"))
ISSUED = Table(
    "issued", ("key", "sample", "stage", "session", "at"), False, True, ("lines of the log of requests", "left out")
)
EVENTS = Table("events", ("session", "at", "event", "detail"), False, True, ("lines of the log of events", "left out"))
KEPT = Table("kept", ("name", "rows"), False, False, ("counts of rows", "counted anew"))

TABLES = (REPLIES, MEASUREMENTS, EMBEDDINGS, MILESTONES, META, ISSUED, EVENTS, KEPT)
CHECKED = tuple(table for table in TABLES if table.checked)


def checksum(values: Sequence[object]) -> int:
    """Returns the checksum of a row's values.

    CRC-32 finds every damage of up to 32 bits in a row, and misses one of four billion others. The threat is a broken
    disk and not a forger, so nothing slower is needed. `ascii` writes values of equal type and content alike in every
    version of Python, unlike `marshal` and `repr`.
    """
    return zlib.crc32(ascii(tuple(values)).encode("ascii"))


def with_checksum(values: Sequence[object]) -> tuple[object, ...]:
    """Returns a row as it is written: its values and their checksum."""
    return (*values, checksum(values))


def sound(table: Table, row: Sequence[object], *, unchecked: bool = False) -> bool:
    """Tells whether a row is as it was written.

    Args:
        table: the table that it is of.
        row: its values, and their checksum if the table has one.
        unchecked: whether the journal is of a schema without checksums, so that only the kind of each value tells.
    """
    values = row[: len(table.columns)]
    if not table.checked or (unchecked and row[-1] is None):
        return plausible(table, values)
    return bool(row[-1] == checksum(values))


def plausible(table: Table, values: Sequence[object]) -> bool:
    """Tells whether values are of the kinds that stand in a table."""
    if not all(_KINDS[name](value) for name, value in zip(table.columns, values, strict=True)):
        return False
    if table is REPLIES:
        text, finish_reason, prompt, completion, failure = values[2:7]
        return (failure is not None) != (None not in (text, finish_reason, prompt, completion))
    if table is MEASUREMENTS:
        return (values[2] is None) != (values[3] is None) and not isinstance(values[2], str)
    if table is MILESTONES:
        return values[1] in ("born", "gated", "joined")
    return table is not META or isinstance(values[1], str)


def _is_text(value: object) -> bool:
    # what is no UTF-8 is read with halves of surrogates in its place, and cannot be encoded
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _or_none(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or kind(value)


_KINDS: dict[str, Callable[[object], bool]] = {
    "key": lambda value: _is_text(value) and value != "",
    "sample": _is_count,
    "text": _or_none(_is_text),
    "finish_reason": lambda value: value in (None, "stop", "length"),
    # counts that no request has are taken for none when they are read; the reply is as good as any
    "prompt_tokens": _or_none(lambda value: isinstance(value, int)),
    "completion_tokens": _or_none(lambda value: isinstance(value, int)),
    "cached_tokens": _or_none(lambda value: isinstance(value, int)),
    "failure": _or_none(_is_text),
    "session": _is_count,
    "at": _is_number,
    "seconds": _or_none(_is_number),
    "reasoning": _or_none(_is_text),
    "stage": lambda value: value is None or value in STAGES,
    "fingerprint": _is_text,
    "subject": _is_text,
    "value": lambda value: _is_text(value) or _is_number(value) or value is None,
    "missing": _or_none(_is_text),
    "vector": lambda value: isinstance(value, bytes) and len(value) % 4 == 0,
    "position": _is_count,
    "event": _is_text,
    "number": _is_count,
    "name": _is_text,
    "detail": _or_none(_is_text),
    "rows": _is_count,
}
