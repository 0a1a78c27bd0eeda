"""What the rows of a file of pairs mean: the layouts in which preference benchmarks are published."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evo.errors import FittestError
from fitness.judge.pair import Pair
from fitness.judge.verdict import Side, Verdicts
from runs.pools.layouts import without_lone_surrogates
from runs.pools.readers import Row

NumberedRows = Iterator[tuple[str, Row]]
"""Rows, each with the words that name its place in the file."""

RECORDED = re.compile(r"recorded_\w+_verdict")
SWAPPED = "_swapped"

_TURN = "\n\nAssistant:"
_HUMAN = "\n\nHuman:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True)
class RecordedPair:
    """A pair as a file has it; `recorded` holds the verdicts on it that the file brings along."""

    pair: Pair
    recorded: Verdicts | None = None


@dataclass(frozen=True)
class Layout:
    """One way to write pairs.

    Attributes:
        name: for messages.
        needs: the columns that tell it.
        takes: columns that it reads as well, where they are there.
        read: makes pairs of rows; None stands for a row that holds no pair.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    read: Callable[[NumberedRows], Iterator[RecordedPair | None]]


def find_layout(columns: Collection[str], where: str) -> Layout:
    """The first layout all of whose columns are there.

    Raises:
        FittestError: there is none; the message lists what was found and what would be read.
    """
    if not columns:
        raise FittestError(f"{where}: holds no rows")
    for layout in LAYOUTS:
        if all(name in columns for name in layout.needs):
            return layout
    found = ", ".join(map(repr, columns))
    known = "; ".join(f"{', '.join(layout.needs)} ({layout.name})" for layout in LAYOUTS)
    raise FittestError(f"{where}: not a file of pairs; its columns are {found}; expected {known}")


def recorded_columns(columns: Collection[str]) -> tuple[str, str] | None:
    """The columns that hold one judge's verdicts in order AB and BA, or None.

    Only the first judge of a file is read.
    """
    for name in columns:
        if RECORDED.fullmatch(name) and f"{name}{SWAPPED}" in columns:
            return name, f"{name}{SWAPPED}"
    return None


def _two_responses(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """`instruction`, `response_a`, `response_b`, and a `label` that is A, B or tie, or none."""
    labels: Mapping[str, Side | None] = {"A": "A", "B": "B", "tie": None, "": None}
    for where, row in rows:
        given = row.get("label")
        label = _one_of("" if given is None else given, labels, f"{where}: label")
        pair = Pair(*_texts(row, where, "instruction", "response_a", "response_b"), label, _subset(row))
        columns = recorded_columns(row)
        yield RecordedPair(pair, Verdicts(_recorded(row[columns[0]]), _recorded(row[columns[1]])) if columns else None)


def _two_outputs(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """LLMBar as published: `input`, `output_1`, `output_2`, and a `label` that is 1 or 2."""
    for where, row in rows:
        label = _one_of(row.get("label"), {"1": "A", "2": "B"}, f"{where}: label")
        texts = _texts(row, where, "input", "output_1", "output_2")
        yield RecordedPair(Pair(*texts, label, _subset(row)))


def _chosen_and_rejected(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """RewardBench and TRL: `prompt`, `chosen` and `rejected`, as texts or as chats; the chosen answer is A."""
    for where, row in rows:
        texts = _texts(row, where, "prompt", "chosen", "rejected")
        yield RecordedPair(Pair(*texts, "A", _subset(row)))


def _dialogues(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HH-RLHF, and TRL without `prompt`: whole dialogues that differ in the last answer; the chosen one is A."""
    for where, row in rows:
        (asked, chosen), (other_asked, rejected) = (_parted(row, name, where) for name in ("chosen", "rejected"))
        if asked != other_asked:
            yield None  # two dialogues that parted earlier are no two answers to one question
            continue
        single = asked.count(_HUMAN) == 1 and asked.startswith(_HUMAN)
        instruction = asked.removeprefix(_HUMAN) if single else asked
        yield RecordedPair(Pair(instruction.strip(), chosen.strip(), rejected.strip(), "A", _subset(row)))


def _conversations(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """MT-Bench: two `conversation`s on the same questions, of which those up to `turn` were judged; `winner`."""
    winners: Mapping[str, Side | None] = {"model_a": "A", "model_b": "B"}
    for where, row in rows:
        winner = str(row.get("winner"))
        label = None if winner.startswith("tie") else _one_of(winner, winners, f"{where}: winner")
        turns = _whole_number(row.get("turn", 1), f"{where}: turn")
        asked, answered_a = _first_turns(row.get("conversation_a"), turns, f"{where}: conversation_a")
        other_asked, answered_b = _first_turns(row.get("conversation_b"), turns, f"{where}: conversation_b")
        if asked != other_asked:
            yield None
            continue
        yield RecordedPair(Pair(asked, answered_a, answered_b, label, f"turn {turns}"))


def _rated(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HelpSteer2: two rows in a row with the same `prompt`; the `response` rated more helpful is the better one."""
    before: tuple[str, str, float] | None = None
    for where, row in rows:
        helpfulness = _number(row.get("helpfulness"), f"{where}: helpfulness")
        now = (question_of(row, "prompt", where), text_of(row, "response", where), helpfulness)
        if before is None or before[0] != now[0]:
            before = now
            continue
        label: Side | None = None if before[2] == now[2] else "A" if before[2] > now[2] else "B"
        yield RecordedPair(Pair(now[0], before[1], now[1], label, _subset(row)))
        before = None


def _preferred(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HelpSteer2-Preference: `response_1`, `response_2`; a negative `preference_strength` is for the first."""
    for where, row in rows:
        strength = _number(row.get("preference_strength"), f"{where}: preference_strength")
        label: Side | None = None if strength == 0 else "A" if strength < 0 else "B"
        texts = _texts(row, where, "prompt", "response_1", "response_2")
        yield RecordedPair(Pair(*texts, label, _subset(row)))


LAYOUTS = (
    Layout("two responses", ("instruction", "response_a", "response_b"), ("label", "subset"), _two_responses),
    Layout("LLMBar", ("input", "output_1", "output_2", "label"), ("subset",), _two_outputs),
    Layout("MT-Bench", ("conversation_a", "conversation_b", "winner"), ("turn",), _conversations),
    Layout("HelpSteer2-Preference", ("prompt", "response_1", "response_2", "preference_strength"), (), _preferred),
    Layout("HelpSteer2", ("prompt", "response", "helpfulness"), (), _rated),
    Layout("RewardBench, TRL", ("prompt", "chosen", "rejected"), ("subset",), _chosen_and_rejected),
    Layout("HH-RLHF", ("chosen", "rejected"), ("subset",), _dialogues),
)


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


def _texts(row: Row, where: str, instruction: str, first: str, second: str) -> tuple[str, str, str]:
    return question_of(row, instruction, where), text_of(row, first, where), text_of(row, second, where)


def _parted(row: Row, column: str, where: str) -> tuple[str, str]:
    """A dialogue without its last answer, and that answer."""
    cell = row.get(column)
    if isinstance(cell, list) and len(cell) > 1:
        return question_of({column: cell[:-1]}, column, where), text_of(row, column, where)
    asked, found, answer = text_of(row, column, where).rpartition(_TURN)
    if not found:
        raise FittestError(f"{where}: holds no answer; a dialogue should end in a turn that begins with Assistant:")
    return asked, answer


def _first_turns(conversation: object, turns: int, where: str) -> tuple[str, str]:
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


def _subset(row: Row) -> str:
    name = row.get("subset")
    return name if isinstance(name, str) else ""


def _recorded(cell: object) -> Side | None:
    """A verdict as LLMBar records it, "Output (a)", or a bare letter; None where it is neither."""
    letter = re.fullmatch(r"(?:Output )?\(?([ab])\)?", str(cell).strip(), re.IGNORECASE)
    return None if letter is None else "A" if letter[1].lower() == "a" else "B"


def _whole_number(cell: object, where: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", str(cell)):
        raise FittestError(f"{where} is {cell!r}; it should be a whole number from 1 on")
    return int(str(cell))


def _number(cell: object, where: str) -> float:
    if isinstance(cell, bool) or not isinstance(cell, (int, float)) or not math.isfinite(cell):
        raise FittestError(f"{where} is {cell!r}; it should be a number")
    return float(cell)


def _one_of(cell: object, known: Mapping[str, Literal["A", "B"] | None], where: str) -> Side | None:
    if str(cell) not in known:
        raise FittestError(f"{where} is {cell!r}; it should be {', '.join(filter(None, known))}")
    return known[str(cell)]
