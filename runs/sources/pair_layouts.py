"""What the rows of a file of pairs mean: the layouts in which preference benchmarks are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from fittest.evo.errors import FittestError
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Side, Verdicts
from fittest.runs.sources.pair_cells import (
    first_turns,
    number_of,
    one_of,
    parted_dialogue,
    question_of,
    recorded_side,
    subset_of,
    text_of,
    three_texts,
    whole_number,
)
from fittest.runs.sources.table import Row

NumberedRows = Iterator[tuple[str, Row]]
"""Rows, each with the words that name its place in the file."""

RECORDED = re.compile(r"recorded_\w+_verdict")
SWAPPED = "_swapped"

_HUMAN = "\n\nHuman:"


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
        label = one_of("" if given is None else given, labels, f"{where}: label")
        pair = Pair(*three_texts(row, where, "instruction", "response_a", "response_b"), label, subset_of(row))
        columns = recorded_columns(row)
        yield RecordedPair(
            pair, Verdicts(recorded_side(row[columns[0]]), recorded_side(row[columns[1]])) if columns else None
        )


def _two_outputs(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """LLMBar as published: `input`, `output_1`, `output_2`, and a `label` that is 1 or 2."""
    for where, row in rows:
        label = one_of(row.get("label"), {"1": "A", "2": "B"}, f"{where}: label")
        texts = three_texts(row, where, "input", "output_1", "output_2")
        yield RecordedPair(Pair(*texts, label, subset_of(row)))


def _chosen_and_rejected(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """RewardBench and TRL: `prompt`, `chosen` and `rejected`, as texts or as chats; the chosen answer is A."""
    for where, row in rows:
        texts = three_texts(row, where, "prompt", "chosen", "rejected")
        yield RecordedPair(Pair(*texts, "A", subset_of(row)))


def _dialogues(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HH-RLHF, and TRL without `prompt`: whole dialogues that differ in the last answer; the chosen one is A."""
    for where, row in rows:
        (asked, chosen), (other_asked, rejected) = (
            parted_dialogue(row, name, where) for name in ("chosen", "rejected")
        )
        if asked != other_asked:
            yield None  # two dialogues that parted earlier are no two answers to one question
            continue
        single = asked.count(_HUMAN) == 1 and asked.startswith(_HUMAN)
        instruction = asked.removeprefix(_HUMAN) if single else asked
        yield RecordedPair(Pair(instruction.strip(), chosen.strip(), rejected.strip(), "A", subset_of(row)))


def _conversations(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """MT-Bench: two `conversation`s on the same questions, of which those up to `turn` were judged; `winner`."""
    winners: Mapping[str, Side | None] = {"model_a": "A", "model_b": "B"}
    for where, row in rows:
        winner = str(row.get("winner"))
        label = None if winner.startswith("tie") else one_of(winner, winners, f"{where}: winner")
        turns = whole_number(row.get("turn", 1), f"{where}: turn")
        asked, answered_a = first_turns(row.get("conversation_a"), turns, f"{where}: conversation_a")
        other_asked, answered_b = first_turns(row.get("conversation_b"), turns, f"{where}: conversation_b")
        if asked != other_asked:
            yield None
            continue
        yield RecordedPair(Pair(asked, answered_a, answered_b, label, f"turn {turns}"))


def _rated(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HelpSteer2: two rows in a row with the same `prompt`; the `response` rated more helpful is the better one."""
    before: tuple[str, str, float] | None = None
    for where, row in rows:
        helpfulness = number_of(row.get("helpfulness"), f"{where}: helpfulness")
        now = (question_of(row, "prompt", where), text_of(row, "response", where), helpfulness)
        if before is None or before[0] != now[0]:
            before = now
            continue
        label: Side | None = None if before[2] == now[2] else "A" if before[2] > now[2] else "B"
        yield RecordedPair(Pair(now[0], before[1], now[1], label, subset_of(row)))
        before = None


def _preferred(rows: NumberedRows) -> Iterator[RecordedPair | None]:
    """HelpSteer2-Preference: `response_1`, `response_2`; a negative `preference_strength` is for the first."""
    for where, row in rows:
        strength = number_of(row.get("preference_strength"), f"{where}: preference_strength")
        label: Side | None = None if strength == 0 else "A" if strength < 0 else "B"
        texts = three_texts(row, where, "prompt", "response_1", "response_2")
        yield RecordedPair(Pair(*texts, label, subset_of(row)))


LAYOUTS = (
    Layout("two responses", ("instruction", "response_a", "response_b"), ("label", "subset"), _two_responses),
    Layout("LLMBar", ("input", "output_1", "output_2", "label"), ("subset",), _two_outputs),
    Layout("MT-Bench", ("conversation_a", "conversation_b", "winner"), ("turn",), _conversations),
    Layout("HelpSteer2-Preference", ("prompt", "response_1", "response_2", "preference_strength"), (), _preferred),
    Layout("HelpSteer2", ("prompt", "response", "helpfulness"), (), _rated),
    Layout("RewardBench, TRL", ("prompt", "chosen", "rejected"), ("subset",), _chosen_and_rejected),
    Layout("HH-RLHF", ("chosen", "rejected"), ("subset",), _dialogues),
)
