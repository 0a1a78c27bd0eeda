"""What the cells of a file of pairs hold: texts, chats, dialogues, labels and numbers."""

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
    """The text in a cell, or the last turn of a chat.

    Raises:
        FittestError: it holds neither.
    """
    cell = row.get(column)
    if isinstance(cell, list) and cell and isinstance(cell[-1], dict):
        cell = cell[-1].get("content")
    if isinstance(cell, str):
        return without_lone_surrogates(cell)
    raise FittestError(f"{where}: {column} is {str(cell)[:40]!r}; it should be text")


def question_of(row: Row, column: str, where: str) -> str:
    """The text in a cell; of a chat all turns, each after its speaker, or the one turn alone.

    Raises:
        FittestError: it holds neither.
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
    """An instruction and the two answers to it."""
    return question_of(row, instruction, where), text_of(row, first, where), text_of(row, second, where)


def parted_dialogue(row: Row, column: str, where: str) -> tuple[str, str]:
    """A dialogue without its last answer, and that answer."""
    cell = row.get(column)
    if isinstance(cell, list) and len(cell) > 1:
        return question_of({column: cell[:-1]}, column, where), text_of(row, column, where)
    asked, found, answer = text_of(row, column, where).rpartition(_TURN)
    if not found:
        raise FittestError(f"{where}: holds no answer; a dialogue should end in a turn that begins with Assistant:")
    return asked, answer


def first_turns(conversation: object, turns: int, where: str) -> tuple[str, str]:
    """Questions and answers of the first `turns` exchanges; where there are several, each begins on a line of its own.

    Raises:
        FittestError: the conversation is shorter, or no list of turns.
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
    """The subset that a row names; empty where it names none."""
    name = row.get("subset")
    return name if isinstance(name, str) else ""


def recorded_side(cell: object) -> Side | None:
    """A verdict as LLMBar records it, "Output (a)", or a bare letter; None where it is neither."""
    letter = re.fullmatch(r"(?:Output )?\(?([ab])\)?", str(cell).strip(), re.IGNORECASE)
    return None if letter is None else "A" if letter[1].lower() == "a" else "B"


def whole_number(cell: object, where: str) -> int:
    """A number that counts from 1.

    Raises:
        FittestError: it is none.
    """
    if not re.fullmatch(r"[1-9]\d*", str(cell)):
        raise FittestError(f"{where} is {cell!r}; it should be a whole number from 1 on")
    return int(str(cell))


def number_of(cell: object, where: str) -> float:
    """A finite number.

    Raises:
        FittestError: it is none.
    """
    if isinstance(cell, bool) or not isinstance(cell, (int, float)) or not math.isfinite(cell):
        raise FittestError(f"{where} is {cell!r}; it should be a number")
    return float(cell)


def one_of(cell: object, known: Mapping[str, Literal["A", "B"] | None], where: str) -> Side | None:
    """What a known value stands for.

    Raises:
        FittestError: it is not among the known.
    """
    if str(cell) not in known:
        raise FittestError(f"{where} is {cell!r}; it should be {', '.join(filter(None, known))}")
    return known[str(cell)]
