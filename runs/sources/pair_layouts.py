"""Makes pairs of the rows of a file: it knows the layouts in which preference benchmarks are published."""

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
    question_of,
    recorded_side,
    split_dialogue,
    subset_of,
    text_of,
    three_texts,
    whole_number,
)
from fittest.runs.sources.table import Row

_NumberedRows = Iterator[tuple[str, Row]]
"""Rows, each with the words that name its place in the file."""

_RECORDED = re.compile(r"recorded_\w+_verdict")
_SWAPPED = "_swapped"

_HUMAN = "\n\nHuman:"


@dataclass(frozen=True, slots=True)
class RecordedPair:
    """Holds a pair of a file, and the verdicts on it that the file records."""

    pair: Pair
    recorded: Verdicts | None = None


@dataclass(frozen=True)
class _Layout:
    """Describes one way to write pairs.

    Attributes:
        name: the name that messages show.
        needs: the columns by which the layout is recognised.
        takes: further columns that are read if they exist.
        read: makes pairs of rows; it yields None for a row that holds no usable pair, and may yield nothing for the
            first of two rows that are one pair.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    read: Callable[[_NumberedRows], Iterator[RecordedPair | None]]


def find_layout(columns: Collection[str], where: str) -> _Layout:
    """Return the first layout whose columns all exist.

    Args:
        columns: the columns of a file.
        where: names the file in messages.

    Raises:
        FittestError: no layout fits; the message lists the columns found and those of every layout.
    """
    if not columns:
        raise FittestError(f"{where}: holds no rows")
    for layout in _LAYOUTS:
        if all(name in columns for name in layout.needs):
            return layout
    found = ", ".join(map(repr, columns))
    known = "; ".join(f"{', '.join(layout.needs)} ({layout.name})" for layout in _LAYOUTS)
    raise FittestError(f"{where}: not a file of pairs; its columns are {found}; expected {known}")


def recorded_columns(columns: Collection[str]) -> tuple[str, str] | None:
    """Return the columns that hold the first judge's verdicts in order AB and in order BA, or None."""
    for name in columns:
        if _RECORDED.fullmatch(name) and f"{name}{_SWAPPED}" in columns:
            return name, f"{name}{_SWAPPED}"
    return None


def _two_responses(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read `instruction`, `response_a`, `response_b`, and a `label` that is A, B, tie or missing."""
    labels: Mapping[str, Side | None] = {"A": "A", "B": "B", "tie": None, "": None}
    for where, row in rows:
        given = row.get("label")
        label = one_of("" if given is None else given, labels, f"{where}: label")
        pair = Pair(*three_texts(row, where, "instruction", "response_a", "response_b"), label, subset_of(row))
        columns = recorded_columns(row)
        yield RecordedPair(
            pair, Verdicts(recorded_side(row[columns[0]]), recorded_side(row[columns[1]])) if columns else None
        )


def _two_outputs(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read LLMBar as published: `input`, `output_1`, `output_2`, and a `label` that is 1 or 2."""
    for where, row in rows:
        label = one_of(row.get("label"), {"1": "A", "2": "B"}, f"{where}: label")
        texts = three_texts(row, where, "input", "output_1", "output_2")
        yield RecordedPair(Pair(*texts, label, subset_of(row)))


def _chosen_and_rejected(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read RewardBench and TRL: `prompt`, `chosen` and `rejected` as texts or as chats; the chosen answer is A."""
    for where, row in rows:
        texts = three_texts(row, where, "prompt", "chosen", "rejected")
        yield RecordedPair(Pair(*texts, "A", subset_of(row)))


def _dialogues(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read HH-RLHF, and TRL without `prompt`: whole dialogues that differ in the last answer; the chosen one is A."""
    for where, row in rows:
        (asked, chosen), (other_asked, rejected) = (
            split_dialogue(row, name, where) for name in ("chosen", "rejected")
        )
        if asked != other_asked:
            yield None  # two dialogues that differ earlier do not answer the same question
            continue
        single = asked.count(_HUMAN) == 1 and asked.startswith(_HUMAN)
        instruction = asked.removeprefix(_HUMAN) if single else asked
        yield RecordedPair(Pair(instruction.strip(), chosen.strip(), rejected.strip(), "A", subset_of(row)))


def _conversations(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read MT-Bench: two conversations on the same questions; people judged them up to exchange `turn`."""
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


def _rated(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read HelpSteer2: two neighbouring rows with the same `prompt`; the `response` rated more helpful is better."""
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


def _preferred(rows: _NumberedRows) -> Iterator[RecordedPair | None]:
    """Read HelpSteer2-Preference: a negative `preference_strength` prefers `response_1` to `response_2`."""
    for where, row in rows:
        strength = number_of(row.get("preference_strength"), f"{where}: preference_strength")
        label: Side | None = None if strength == 0 else "A" if strength < 0 else "B"
        texts = three_texts(row, where, "prompt", "response_1", "response_2")
        yield RecordedPair(Pair(*texts, label, subset_of(row)))


# the order counts: a file of RewardBench also has the columns of HH-RLHF
_LAYOUTS = (
    _Layout("two responses", ("instruction", "response_a", "response_b"), ("label", "subset"), _two_responses),
    _Layout("LLMBar", ("input", "output_1", "output_2", "label"), ("subset",), _two_outputs),
    _Layout("MT-Bench", ("conversation_a", "conversation_b", "winner"), ("turn",), _conversations),
    _Layout("HelpSteer2-Preference", ("prompt", "response_1", "response_2", "preference_strength"), (), _preferred),
    _Layout("HelpSteer2", ("prompt", "response", "helpfulness"), (), _rated),
    _Layout("RewardBench, TRL", ("prompt", "chosen", "rejected"), ("subset",), _chosen_and_rejected),
    _Layout("HH-RLHF", ("chosen", "rejected"), ("subset",), _dialogues),
)
