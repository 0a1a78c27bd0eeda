"""Says what the columns of a pool mean: the prompt or conversation, and what a row carries beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.sources.table import Row

_PROMPT_COLUMNS = ("prompt", "instruction", "text", "question", "conversation", "conversations", "messages")
_LICENCE_COLUMNS = ("licence", "license")

CARRIED_COLUMNS = ("source", "language", *_LICENCE_COLUMNS)
"""The columns that are read beside the prompt, where a table has them; `carried` says what becomes of them."""


class _Carried(NamedTuple):
    """Holds what a row carries beside its prompt, in the order of `PoolPrompt`."""

    source: str
    licence: str | None
    language: str | None


# ChatML says role, content and user; ShareGPT says from, value and human
_HUMAN_ROLES = ("user", "human")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# About a third of WildChat's rows are these few wordings of one request for image prompts.
_MIDJOURNEY = re.compile(
    r"\W*(?:hi\W+|hello\W+)?(?:as|act as|you are|you will|i want you to|i need you to|imagine you)\b"
    r"(?=[^\n]{0,200}\bprompt)[^\n]{0,120}\bmidjourney\b",
    re.IGNORECASE,
)

_LANGUAGE_CODES = {
    "arabic": "ar", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "finnish": "fi",
    "french": "fr", "german": "de", "greek": "el", "hebrew": "he", "hindi": "hi", "hungarian": "hu",
    "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko", "latin": "la", "norwegian": "no",
    "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro", "russian": "ru", "spanish": "es",
    "swedish": "sv", "thai": "th", "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi",
}  # fmt: skip


def find_prompt_column(columns: Sequence[str], wanted: str | None, where: str) -> str:
    """Returns the column of the prompts.

    Args:
        columns: the columns that the table has.
        wanted: the column that the user names; None takes the first usual name that exists.
        where: names the table in messages.

    Raises:
        FittestError: the table has no such column; the message lists its columns.
    """
    if not columns:
        raise FittestError(f"{where}: holds no rows")
    for name in _PROMPT_COLUMNS if wanted is None else (wanted,):
        if name in columns:
            return name
    found = ", ".join(map(repr, columns))
    missing = f"no column {wanted!r}" if wanted is not None else f"no column named {', '.join(_PROMPT_COLUMNS)}"
    advice = "" if wanted is not None else "; name the right one as prompt_column"
    raise FittestError(f"{where}: {missing}; its columns are {found}{advice}")


def carried(row: Row, *, table: str) -> _Carried:
    """Returns what a row carries beside its prompt.

    Args:
        row: holds the `CARRIED_COLUMNS` that the table has.
        table: the source of a row that names none.
    """
    licence = next((value for name in _LICENCE_COLUMNS if (value := _text(row, name))), None)
    return _Carried(_text(row, "source") or table, licence, _text(row, "language"))


def _text(row: Row, column: str) -> str | None:
    value = row.get(column)
    return None if value is None else without_lone_surrogates(str(value))


def prompt_text(cell: object, where: str) -> str | None:
    """Returns the prompt in a cell: its text, or the first human turn of a conversation; None if there is none.

    Args:
        cell: what the prompt's column holds.
        where: names the row in messages.

    Raises:
        FittestError: the cell holds neither a text nor a conversation.
    """
    if isinstance(cell, list):
        cell = _first_human_turn(cell, where)
    if cell is None or isinstance(cell, str):
        return cell
    raise FittestError(f"{where}: the prompt is {_shown(cell)}; it should be text")


def _first_human_turn(turns: Sequence[object], where: str) -> object:
    for turn in turns:
        if not isinstance(turn, dict):
            raise FittestError(f"{where}: a turn is {_shown(turn)}; it should have role and content")
        if turn.get("role", turn.get("from")) in _HUMAN_ROLES:
            return turn.get("content", turn.get("value"))
    return None


def is_midjourney_boilerplate(text: str) -> bool:
    """Tells whether a prompt begins like the Midjourney prompt generators that fill WildChat."""
    return _MIDJOURNEY.match(text) is not None


def language_code(language: str) -> str:
    """Returns the code of a language: English, english, en and en-GB are all en; an unknown name is in lower case."""
    name = language.strip().lower()
    return _LANGUAGE_CODES.get(name, re.split("[-_]", name)[0])


def without_lone_surrogates(text: str) -> str:
    """Returns the text with U+FFFD in place of each lone surrogate, which UTF-8 cannot hold."""
    return _LONE_SURROGATE.sub("�", text)


def _shown(value: object) -> str:
    return f"{shown_cell(value)} ({type(value).__name__})"


def shown_cell(value: object) -> str:
    """Returns a cell for messages: its first characters, on one line."""
    text = repr(value)
    return visible(text if len(text) <= 40 else text[:40] + "…")
