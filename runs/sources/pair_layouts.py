"""Makes pairs of the rows of a file: it knows the layouts in which preference benchmarks are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from fittest.evo.errors import FittestError
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Side, Verdicts
from fittest.runs.sources.pair_cells import PairRow

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
    read: Callable[[Iterator[PairRow]], Iterator[RecordedPair | None]]


def find_layout(columns: Collection[str], where: str) -> _Layout:
    """Returns the first layout whose columns all exist.

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
    """Returns the columns that hold the first judge's verdicts in order AB and in order BA, or None."""
    for name in columns:
        if _RECORDED.fullmatch(name) and f"{name}{_SWAPPED}" in columns:
            return name, f"{name}{_SWAPPED}"
    return None


def _two_responses(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads `instruction`, `response_a`, `response_b`, and a `label` that is A, B, tie or missing."""
    labels: Mapping[str, Side | None] = {"A": "A", "B": "B", "tie": None, "": None}
    for row in rows:
        given = row.cells.get("label")
        label = row.side("label", "" if given is None else given, labels)
        pair = Pair(*row.three_texts("instruction", "response_a", "response_b"), label, row.subset)
        columns = recorded_columns(row.cells)
        yield RecordedPair(
            pair, Verdicts(row.recorded_side(columns[0]), row.recorded_side(columns[1])) if columns else None
        )


def _two_outputs(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads LLMBar as published: `input`, `output_1`, `output_2`, and a `label` that is 1 or 2."""
    for row in rows:
        label = row.side("label", row.cells.get("label"), {"1": "A", "2": "B"})
        texts = row.three_texts("input", "output_1", "output_2")
        yield RecordedPair(Pair(*texts, label, row.subset))


def _chosen_and_rejected(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads RewardBench and TRL: `prompt`, `chosen` and `rejected` as texts or as chats; the chosen answer is A."""
    for row in rows:
        texts = row.three_texts("prompt", "chosen", "rejected")
        yield RecordedPair(Pair(*texts, "A", row.subset))


def _dialogues(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads HH-RLHF, and TRL without `prompt`: whole dialogues that differ in the last answer; the chosen one is A."""
    for row in rows:
        (asked, chosen), (other_asked, rejected) = row.dialogue("chosen"), row.dialogue("rejected")
        if asked != other_asked:
            yield None  # two dialogues that differ earlier do not answer the same question
            continue
        single = asked.count(_HUMAN) == 1 and asked.startswith(_HUMAN)
        instruction = asked.removeprefix(_HUMAN) if single else asked
        yield RecordedPair(Pair(instruction.strip(), chosen.strip(), rejected.strip(), "A", row.subset))


def _conversations(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads MT-Bench: two conversations on the same questions; people judged them up to exchange `turn`."""
    winners: Mapping[str, Side | None] = {"model_a": "A", "model_b": "B"}
    for row in rows:
        winner = str(row.cells.get("winner"))
        label = None if winner.startswith("tie") else row.side("winner", winner, winners)
        turns = row.whole_number("turn", default=1)
        asked, answered_a = row.first_turns("conversation_a", turns)
        other_asked, answered_b = row.first_turns("conversation_b", turns)
        if asked != other_asked:
            yield None
            continue
        yield RecordedPair(Pair(asked, answered_a, answered_b, label, f"turn {turns}"))


def _rated(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads HelpSteer2: two neighbouring rows with the same `prompt`; the `response` rated more helpful is better."""
    before: tuple[str, str, float] | None = None
    for row in rows:
        helpfulness = row.number("helpfulness")
        now = (row.question("prompt"), row.text("response"), helpfulness)
        if before is None or before[0] != now[0]:
            before = now
            continue
        label: Side | None = None if before[2] == now[2] else "A" if before[2] > now[2] else "B"
        yield RecordedPair(Pair(now[0], before[1], now[1], label, row.subset))
        before = None


def _preferred(rows: Iterator[PairRow]) -> Iterator[RecordedPair | None]:
    """Reads HelpSteer2-Preference: a negative `preference_strength` prefers `response_1` to `response_2`."""
    for row in rows:
        strength = row.number("preference_strength")
        label: Side | None = None if strength == 0 else "A" if strength < 0 else "B"
        texts = row.three_texts("prompt", "response_1", "response_2")
        yield RecordedPair(Pair(*texts, label, row.subset))


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
