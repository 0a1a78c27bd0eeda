"""Reads the cells in a file of pairs: texts, chats, dialogues, labels and numbers.

In every function here `row` is a row of the file, `column` the name of a cell in it, and `where` names the place of
the row, or of the cell, in messages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from fittest.evo.errors import FittestError
from fittest.fitness.judge.verdict import Side
from fittest.runs.sources.pool_columns import without_lone_surrogates
from fittest.runs.sources.table import Row

_TURN = "\n\nAssistant:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


def text_of(row: Row, column: str, where: str) -> str:
    """Return the text in a cell, or the last turn of a chat in it.

    Args:
        row: a row of the file.
        column: the cell's column.
        where: names the row in messages.

    Raises:
        FittestError: the cell holds neither a text nor a chat.
    """
    cell = row.get(column)
    if isinstance(cell, list) and cell and isinstance(cell[-1], dict):
        cell = cell[-1].get("content")
    if isinstance(cell, str):
        return without_lone_surrogates(cell)
    raise FittestError(f"{where}: {column} is {str(cell)[:40]!r}; it should be text")


def question_of(row: Row, column: str, where: str) -> str:
    """Return the text in a cell, or all turns of a chat in it, each after the name of its speaker.

    A chat of a single turn is returned without the speaker's name.

    Args:
        row: a row of the file.
        column: the cell's column.
        where: names the row in messages.

    Raises:
        FittestError: the cell holds neither a text nor a chat.
    """
    cell = row.get(column)
    if not isinstance(cell, list) or len(cell) < 2:
        return text_of(row, column, where)
    said = []
    for turn in cell:
        role, content = (turn.get(key) if isinstance(turn, dict) else None for key in ("role", "content"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise FittestError(f"{where}: {column}: expected turns, each with role and content")
        said.append(f"{_SPEAKERS.get(role, role)}: {without_lone_surrogates(content)}")
    return "\n\n".join(said)


def three_texts(row: Row, where: str, instruction: str, first: str, second: str) -> tuple[str, str, str]:
    """Return an instruction and the two answers to it, from the columns with these names."""
    return question_of(row, instruction, where), text_of(row, first, where), text_of(row, second, where)


def split_dialogue(row: Row, column: str, where: str) -> tuple[str, str]:
    """Return a dialogue without its last answer, and that answer."""
    cell = row.get(column)
    if isinstance(cell, list) and len(cell) > 1:
        return question_of({column: cell[:-1]}, column, where), text_of(row, column, where)
    asked, found, answer = text_of(row, column, where).rpartition(_TURN)
    if not found:
        raise FittestError(f"{where}: holds no answer; a dialogue should end in a turn that begins with Assistant:")
    return asked, answer


def first_turns(conversation: object, turns: int, where: str) -> tuple[str, str]:
    """Return the questions and the answers of the first exchanges of a conversation, as one text each.

    If there are several exchanges, the parts are numbered, and an empty line separates them.

    Args:
        conversation: a list of chat turns, each with `role` and `content`.
        turns: the number of exchanges; an exchange is a turn of the user and one of the assistant.
        where: names the cell in messages.

    Raises:
        FittestError: the conversation is shorter, or it is no list of turns.
    """
    said = conversation if isinstance(conversation, list) else []
    questions, answers = (
        [
            text
            for turn in said
            if isinstance(turn, dict) and turn.get("role") == role and (text := turn.get("content"))
        ]
        for role in ("user", "assistant")
    )
    if min(len(questions), len(answers)) < turns:
        raise FittestError(f"{where}: expected {turns} turns of user and assistant, each with role and content")
    return _numbered(questions[:turns]), _numbered(answers[:turns])


def _numbered(texts: Sequence[object]) -> str:
    whole = [without_lone_surrogates(str(text)) for text in texts]
    return whole[0] if len(whole) == 1 else "\n\n".join(f"({number}) {text}" for number, text in enumerate(whole, 1))


def subset_of(row: Row) -> str:
    """Return the subset that a row names, or "" if it names none."""
    name = row.get("subset")
    return name if isinstance(name, str) else ""


def recorded_side(cell: object) -> Side | None:
    """Return a verdict that is recorded as in LLMBar, "Output (a)", or as a single letter; None if it is neither."""
    letter = re.fullmatch(r"(?:Output )?\(?([ab])\)?", str(cell).strip(), re.IGNORECASE)
    return None if letter is None else "A" if letter[1].lower() == "a" else "B"


def whole_number(cell: object, where: str) -> int:
    """Return a whole number of at least 1.

    Args:
        cell: the number, or its digits as text.
        where: names the cell in messages.

    Raises:
        FittestError: the cell is no such number.
    """
    if not re.fullmatch(r"[1-9]\d*", str(cell)):
        raise FittestError(f"{where} is {cell!r}; it should be a whole number from 1 on")
    return int(str(cell))


def number_of(cell: object, where: str) -> float:
    """Return a finite number.

    Args:
        cell: the number.
        where: names the cell in messages.

    Raises:
        FittestError: the cell is no finite number.
    """
    # Python counts True and False as integers, but a rating is neither
    if isinstance(cell, bool) or not isinstance(cell, (int, float)) or not math.isfinite(cell):
        raise FittestError(f"{where} is {cell!r}; it should be a number")
    return float(cell)


def one_of(cell: object, known: Mapping[str, Literal["A", "B"] | None], where: str) -> Side | None:
    """Return what a known value stands for.

    Args:
        cell: the value.
        known: the known values, as text, and what each stands for; None is a tie.
        where: names the cell in messages.

    Raises:
        FittestError: the value is not known.
    """
    if str(cell) not in known:
        raise FittestError(f"{where} is {cell!r}; it should be {', '.join(filter(None, known))}")
    return known[str(cell)]
