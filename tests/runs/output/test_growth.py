"""What a finished generation costs does not grow with the run: operations are counted, and contents stay the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fittest.evo.backends.null import Null
from fittest.evo.errors import FittestError
from fittest.evo.lanes import Lane
from fittest.evo.logbook import ScoredPool
from fittest.evo.records import Completion, Failure, Request, Sampling
from fittest.runs import parse_config, run
from fittest.runs.output import accounting, counts, store
from fittest.runs.output.accounting import IdleFractions, idle_fraction
from fittest.runs.output.journal import SqliteJournal
from tests.conftest import null_tables

TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json", "card.md")
LATE = "survivors_as_of_generation"


class Counted(SqliteJournal):
    """A journal that counts the rows which are read of its logs."""

    read = 0

    def in_flight_changes(self, *stages: Any, **after: Any) -> Iterator[tuple[int, float, int]]:
        for change in super().in_flight_changes(*stages, **after):
            self.read += 1
            yield change


def lanes() -> list[Lane]:
    return [
        Lane(Null(slots=3), ("policy", "proposer"), together=1),
        Lane(Null(slots=2), ("judge",), together=1),
    ]


def exchanged(journal: SqliteJournal, number: int, rng: np.random.Generator, open_: list[tuple[str, Request]]) -> None:
    """Sends some requests and answers some of those that are open, as one exchange does."""
    sent = [
        (
            f"{journal.session}-{number}-{place}",
            Request(str(rng.choice(["rollout", "proposal", "judge"])), Sampling(), 1, prompt="hello"),  # type: ignore[arg-type]
        )
        for place in range(int(rng.integers(4)))
    ]
    answered = [open_.pop(int(rng.integers(len(open_)))) for _ in range(min(len(open_), int(rng.integers(4))))]
    replies = [
        (key, request.sample, Failure("busy") if rng.random() < 0.2 else Completion("yes", "stop", 1, 1))
        for key, request in answered
    ]
    journal.exchange(replies, sent)
    open_ += sent


def failures_in(journal: SqliteJournal) -> list[tuple[str, int]]:
    return list(journal._db.execute("SELECT key, sample FROM replies WHERE failure IS NOT NULL"))


def test_the_idle_fraction_goes_on_from_where_it_was_and_has_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        open_: list[tuple[str, Request]] = []
        with Counted(tmp_path / "journal.sqlite") as journal:
            idle = IdleFractions(journal)
            for number in range(60):
                exchanged(journal, number, rng, open_)
                if number == 40:
                    journal.forget(failures_in(journal)[-3:])
                if rng.random() < 0.5:
                    for lane in lanes():
                        whole = idle_fraction(SqliteJournal.in_flight_changes(journal, lane.stages), lane.slots)
                        assert idle.of(lane) == whole


def test_each_row_of_the_log_is_read_once_in_a_session(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    with Counted(tmp_path / "journal.sqlite") as journal:
        idle, open_, (lane, _) = IdleFractions(journal), list[tuple[str, Request]](), lanes()
        for number in range(100):
            exchanged(journal, number, rng, open_)
            idle.of(lane)
            idle.of(lane)
        assert journal.read == len(list(SqliteJournal.in_flight_changes(journal, lane.stages)))
        journal.forget(failures_in(journal))
        idle.of(lane)
        logged = len(list(SqliteJournal.in_flight_changes(journal, lane.stages)))
        assert journal.read > logged  # what was forgotten is not counted on


def test_a_journal_whose_replies_lie_in_the_order_of_their_keys_is_read_whole() -> None:
    journal = SqliteJournal(":memory:")
    journal._db.executescript(
        "ALTER TABLE replies RENAME TO other; CREATE TABLE replies (key TEXT, sample INTEGER, text TEXT, "
        "finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, failure TEXT, session INTEGER,"
        " at REAL, cached_tokens INTEGER, seconds REAL, reasoning TEXT, stage TEXT, checksum INTEGER, PRIMARY KEY"
        " (key, sample)) WITHOUT ROWID"
    )
    assert journal.log_end() is None
    rng, open_, idle, (lane, _) = (
        np.random.default_rng(3),
        list[tuple[str, Request]](),
        IdleFractions(journal),
        lanes(),
    )
    for number in range(50):
        exchanged(journal, number, rng, open_)
        assert idle.of(lane) == idle_fraction(journal.in_flight_changes(lane.stages), lane.slots)


def tables(**sections: dict[str, Any]) -> dict[str, Any]:
    return null_tables(run={"generations": 8}, operators={"offspring": 6}, **sections)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a run of 40 candidates count as a large one, which writes its survivors when a fourth of all is new."""
    monkeypatch.setattr(store, "_SMALL_RUN", 10)
    monkeypatch.setattr(store, "_NEW_SHARE", 4)


def watched(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[int, dict[str, Any], pl.DataFrame]]:
    """Notes after each generation its number, the summary and the survivors' table."""
    seen: list[tuple[int, dict[str, Any], pl.DataFrame]] = []
    seal = store.Store.seal

    def noted(self: store.Store, evolution: Any, generation: Any) -> None:
        seal(self, evolution, generation)
        summary = json.loads((folder / "summary.json").read_text())
        seen.append((generation.number, summary, pl.read_parquet(folder / "survivors.parquet")))

    monkeypatch.setattr(store.Store, "seal", noted)
    return seen


@pytest.mark.usefixtures("large")
def test_tables_that_grow_are_written_when_enough_is_new_and_the_summary_says_of_when_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch, tmp_path / "run")
    run(parse_config(tables()), tmp_path / "run")
    current = [number for number, summary, _ in seen if LATE not in summary]
    assert current == [0, 3, 7]  # 40 candidates, 58 and 82: each time a fourth or more is new
    for number, summary, survivors in seen:
        assert summary["generations"] == number
        as_of = summary.get(LATE, number)
        assert as_of == max(one for one in current if one <= number)
        assert survivors["generation"].max() <= as_of


def test_a_small_run_writes_everything_after_each_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, tmp_path / "run")
    run(parse_config(tables()), tmp_path / "run")
    assert len(seen) == 9
    assert all(LATE not in summary and summary["survivors"] == len(survivors) for _, summary, survivors in seen)


@pytest.mark.parametrize("budget", [{}, {"max_requests": 330}])
def test_the_tables_of_a_run_that_ended_do_not_tell_how_often_they_were_written(
    budget: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(parse_config(tables(budget=budget)), tmp_path / "often" / "run")
    monkeypatch.setattr(store, "_SMALL_RUN", 10)
    monkeypatch.setattr(store, "_NEW_SHARE", 1)
    seen = watched(monkeypatch, tmp_path / "seldom" / "run")
    result = run(parse_config(tables(budget=budget)), tmp_path / "seldom" / "run")
    assert LATE in seen[-1][1]
    assert LATE not in result.summary
    assert contents(tmp_path / "seldom" / "run") == contents(tmp_path / "often" / "run")


@pytest.mark.usefixtures("large")
def test_an_error_and_a_kill_leave_tables_that_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(store, "_NEW_SHARE", 1)

    broken = True

    def reward(prompts: list[str], responses: list[str]) -> list[float | None]:
        if broken and (folder / "generations" / "0002.parquet").exists():
            raise RuntimeError("no more rewards")
        return [float(len(response) % 7) for response in responses]

    with pytest.raises((FittestError, RuntimeError), match="no more rewards"):
        run(parse_config(tables()), folder, reward=reward)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["generations"], LATE in summary) == (2, False)
    assert len(pl.read_parquet(folder / "survivors.parquet")) == summary["survivors"]

    # as a kill leaves it: the summary is ahead of the survivors
    (folder / "summary.json").write_text(json.dumps(summary | {LATE: 0}))
    seen, broken = watched(monkeypatch, folder), False
    run(parse_config(tables()), folder, resume=True, reward=reward)
    assert LATE not in seen[2][1]
    assert seen[2][2]["generation"].max() <= 2


def test_no_candidate_is_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = {"spending": 0, "race": 0}
    family, race = accounting._family, counts.count_race

    def of_family(prompts: Any, *costs: Any) -> Any:
        looked["spending"] += len(prompts)
        return family(prompts, *costs)

    def of_race(evaluated: Any) -> Any:
        looked["race"] += len(evaluated)
        return race(evaluated)

    monkeypatch.setattr(accounting, "_family", of_family)
    monkeypatch.setattr(counts, "count_race", of_race)
    result = run(parse_config(tables()), tmp_path)
    assert result.evolution is not None
    candidates = [prompt for one in result.evolution.state.finished for prompt in one.candidates]
    assert looked == {"spending": len(candidates), "race": sum(prompt.n_drawn > 0 for prompt in candidates)}
    operators = json.loads((tmp_path / "spending.json").read_text())["operators"]
    assert sum(row["candidates"] for row in operators) == result.summary["candidates"] == len(candidates)


def test_the_pool_is_not_counted_again_while_the_cuts_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    pass_rate = ScoredPool.pass_rate

    def noted(self: ScoredPool, *asked: Any) -> float | None:
        counted.append(len(self.values))
        return pass_rate(self, *asked)

    monkeypatch.setattr(ScoredPool, "pass_rate", noted)
    run(parse_config(tables()), tmp_path)
    rates = pl.read_parquet(tmp_path / "logbook.parquet")["pass_rate_pool"].to_list()
    assert (len(rates), len(set(rates)), len(counted)) == (9, 1, 1)
