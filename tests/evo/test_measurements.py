"""Measurements are looked up first, measured once, and recorded batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from fittest.evo.measurements import Measurements
from fittest.evo.records import Missing
from fittest.runs.output.journal import SqliteJournal


class Lengths:
    """Measures texts by their length, fails at "bad", and notes what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[float | Missing]:
        self.asked.append(list(texts))
        if "bad" in texts:
            raise ZeroDivisionError
        return [float(len(text)) if text else Missing("empty") for text in texts]

    async def later(self, texts: Sequence[str]) -> list[float | Missing]:
        await asyncio.sleep(0)
        return self(texts)


def completed(journal: SqliteJournal | None, items: dict[str, str], measure: Lengths, together: int = 0) -> object:
    return asyncio.run(Measurements(journal, "lengths", items).complete(measure.later, together=together))


def test_what_is_known_is_not_measured_and_the_rest_is_in_its_order() -> None:
    journal, measure = SqliteJournal(":memory:"), Lengths()
    journal.record_measurements("lengths", {"b": 7.0})
    journal.record_measurements("other", {"a": 9.0})
    assert completed(journal, {"c": "ccc", "b": "bb", "a": ""}, measure) == {"a": Missing("empty"), "b": 7.0, "c": 3.0}
    assert measure.asked == [["ccc", ""]]
    assert completed(journal, {"a": "", "c": "ccc"}, measure) == {"a": Missing("empty"), "c": 3.0}
    assert len(measure.asked) == 1


def test_what_is_wanted_is_known_before_anything_is_measured() -> None:
    journal = SqliteJournal(":memory:")
    journal.record_measurements("lengths", {"b": Missing("empty")})
    measurements = Measurements(journal, "lengths", {"a": "a", "b": "", "c": "c"})
    assert measurements.wanted == {"a": "a", "c": "c"}
    assert measurements.known == {"b": Missing("empty")}


@pytest.mark.parametrize(
    ("together", "batches"), [(0, [["a", "b", "c"]]), (1, [["a"], ["b"], ["c"]]), (2, [["a", "b"], ["c"]])]
)
def test_batches_are_as_large_as_asked_for(together: int, batches: list[list[str]]) -> None:
    for now in (False, True):
        measure, items = Lengths(), {text: text for text in "abc"}
        if now:
            Measurements(SqliteJournal(":memory:"), "lengths", items).complete_now(measure, together=together)
        else:
            completed(SqliteJournal(":memory:"), items, measure, together)
        assert measure.asked == batches


def test_nothing_is_measured_for_nothing() -> None:
    measure = Lengths()
    assert completed(SqliteJournal(":memory:"), {}, measure) == {}
    assert measure.asked == []


def test_without_a_journal_everything_is_measured_each_time() -> None:
    measure = Lengths()
    for _ in range(2):
        assert completed(None, {"a": "a"}, measure) == {"a": 1.0}
        assert Measurements(None, "lengths", {"a": "a"}).complete_now(measure) == {"a": 1.0}
    assert len(measure.asked) == 4


def test_the_batches_before_an_error_are_kept() -> None:
    journal, measure = SqliteJournal(":memory:"), Lengths()
    with pytest.raises(ZeroDivisionError):
        completed(journal, {"a": "a", "b": "bad", "c": "c"}, measure, together=1)
    assert journal.measurements("lengths", ["a", "b", "c"]) == {"a": 1.0}


def test_outside_of_a_run_each_batch_is_safe_before_the_next_begins(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal, safe = SqliteJournal(path), []

    def measure(texts: Sequence[str]) -> list[float]:
        other = SqliteJournal(path, read_only=True)
        safe.append(sorted(other.measurements("lengths", ["a", "b", "c"])))
        other.close()
        return [1.0] * len(texts)

    Measurements(journal, "lengths", {text: text for text in "abc"}).complete_now(measure, together=1)
    journal.close()
    assert safe == [[], ["a"], ["a", "b"]]


def test_a_value_for_each_item_is_required() -> None:
    with pytest.raises(ValueError, match="zip"):
        Measurements(SqliteJournal(":memory:"), "lengths", {"a": "a", "b": "b"}).complete_now(lambda items: [1.0])


def test_those_who_measure_the_same_at_once_agree_with_what_is_kept() -> None:
    journal, measure = SqliteJournal(":memory:"), Lengths()

    async def both() -> list[dict[str, float | Missing]]:
        items = {text: text for text in ("a", "bb")}
        return list(
            await asyncio.gather(*(Measurements(journal, "lengths", items).complete(measure.later) for _ in range(2)))
        )

    assert asyncio.run(both()) == [{"a": 1.0, "bb": 2.0}] * 2
    assert journal.measurements("lengths", ["a", "bb"]) == {"a": 1.0, "bb": 2.0}
