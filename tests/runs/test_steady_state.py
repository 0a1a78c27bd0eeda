"""Steady state: no barrier between generations, and a run that repeats exactly from the order it journalled."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from tests.conftest import null_tables
from tests.runs.test_crash import asked_again, kill_at, replies, sent, start

STEADY = {"seed": 3, "generations": 3, "population": 12, "mode": "steady-state"}
NAMES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json")


def tables(**sections: dict[str, Any]) -> dict[str, Any]:
    return null_tables(**{"run": STEADY, "engine": {"latency": 0.004}, **sections})


def results(folder: Path) -> dict[str, bytes]:
    files = [folder / name for name in NAMES] + sorted((folder / "generations").glob("*.parquet"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def replayed(journal: Path, out: Path, **engine: Any) -> dict[str, bytes]:
    run(parse_config(null_tables(run=STEADY, engine={"kind": "replay", "path": str(journal), **engine})), out)
    return results(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steady") / "run"
    run(parse_config(tables()), out)
    return out


def test_the_tables_are_whole(folder: Path) -> None:
    settings = tables()["operators"]
    logbook = pl.read_parquet(folder / "logbook.parquet")
    assert logbook["generation"].to_list() == [0, 1, 2, 3]
    for number in range(1, 4):
        rows = pl.read_parquet(folder / "generations" / f"{number:04d}.parquet")
        assert rows["slot"].to_list() == list(range(settings["offspring"]))
        assert rows["survived"].sum() == logbook["passed"][number]
    said = summary(folder)
    assert (said["stop_reason"], said["generations"], said["survivors"]) == ("generations", 3, logbook["passed"].sum())
    assert logbook["rollouts"].sum() == said["rollouts"]


def test_an_offspring_may_be_bred_from_its_own_generation(folder: Path) -> None:
    """What a barrier rules out."""
    found = False
    for number in range(1, 4):
        rows = pl.read_parquet(folder / "generations" / f"{number:04d}.parquet")
        mine = set(rows["prompt_id"])
        found |= any(
            mine & {*parents, *exemplars} for parents, exemplars in rows.select("parents", "exemplars").rows()
        )
    assert found


@pytest.mark.parametrize("slots", [2, 8, 32])
def test_a_replayed_journal_gives_the_same_run_at_any_speed(folder: Path, slots: int, tmp_path: Path) -> None:
    assert replayed(folder / "journal.sqlite", tmp_path / "run", slots=slots) == results(folder)


def test_a_replay_with_fewer_generations_ends(folder: Path, tmp_path: Path) -> None:
    replay = {"kind": "replay", "path": str(folder / "journal.sqlite")}
    run(parse_config(null_tables(run={**STEADY, "generations": 2}, engine=replay)), tmp_path / "run")
    assert summary(tmp_path / "run")["generations"] == 2


def test_a_replay_that_goes_on_beyond_its_recording_keeps_its_own_order(tmp_path: Path) -> None:
    """The recording was cut short; what is missing of it fails, and a resumed replay takes the same turns again."""
    run(parse_config(tables(budget={"max_requests": 200})), tmp_path / "recorded")
    replay = {"kind": "replay", "path": str(tmp_path / "recorded" / "journal.sqlite")}
    again = parse_config(null_tables(run=STEADY, engine=replay))
    run(again, tmp_path / "run")
    before = results(tmp_path / "run")
    for file in [*(tmp_path / "run").glob("*.json"), *(tmp_path / "run" / "generations").iterdir()]:
        file.unlink()
    run(again, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == before


def test_a_run_whose_tables_are_lost_is_made_again_from_its_journal(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "run")
    for file in [*copy.glob("*.parquet"), *copy.glob("*.json*"), *(copy / "generations").iterdir()]:
        file.unlink()
    run(parse_config(tables()), copy, resume=True)
    assert results(copy) == results(folder)
    assert asked_again(copy) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(0.2,), (0.5,), (0.8,), (0.3, 0.4, 0.6, 0.7, 0.9)])
def test_a_killed_run_goes_on_in_its_order(kills: tuple[float, ...], folder: Path, tmp_path: Path) -> None:
    out, total = tmp_path / "run", replies(folder)
    for share in kills:
        kill_at(start(tables(), out), out, round(share * total))
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        before = journal.execute("SELECT * FROM milestones ORDER BY position").fetchall()
    run(parse_config(tables()), out, resume=True)
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        after = journal.execute("SELECT * FROM milestones ORDER BY position").fetchall()
    assert after[: len(before)] == before
    assert asked_again(out) == 0
    everything, different = sent(out)
    assert everything - different <= tables()["engine"]["slots"] * len(kills)
    assert replayed(out / "journal.sqlite", tmp_path / "again") == results(out)


def test_a_run_that_reached_a_cap_goes_on_in_its_order(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for cap in (200, 260, 320):
        run(parse_config(tables(budget={"max_requests": cap})), out, resume=True)
        assert summary(out)["stop_reason"] == "max_requests"
    run(parse_config(tables()), out, resume=True)
    assert replayed(out / "journal.sqlite", tmp_path / "again") == results(out)


def test_it_ends_when_enough_have_survived_with_what_is_begun_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(parse_config(tables(budget={"target_survivors": 14})), out)
    said = summary(out)
    assert said["stop_reason"] == "target_survivors"
    assert said["survivors"] >= 14
    assert said["candidates"] < 40 + 3 * 24
    rows = pl.read_parquet(sorted((out / "generations").glob("*.parquet"))[-1])
    assert rows["slot"].to_list() == list(range(len(rows)))


def test_a_plain_deap_evaluate_serves_as_well(tmp_path: Path) -> None:
    def evaluate(individual: Any) -> tuple[float, float, float]:
        return (len(individual.text) / 100, 50.0, 0.1)

    result = run(
        parse_config(tables()), tmp_path / "run", customise=lambda toolbox: toolbox.register("evaluate", evaluate)
    )
    assert result.summary["survivors"] > 0
    assert result.summary["rollouts"] == 0


@pytest.mark.parametrize(
    "sections",
    [
        {"selection": {"policy": "per-generation"}},
        {"selection": {"policy": "pareto"}},
        {"run": {**STEADY, "arm": "best-of-n"}},
    ],
)
def test_selection_within_a_generation_is_refused(sections: dict[str, Any]) -> None:
    with pytest.raises(FittestError, match=r'run\.mode "steady-state" has no finished generation to compare within'):
        parse_config(tables(**sections))


def test_a_pool_without_parents_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text("A single prompt that nobody can be bred with.\n")
    result = run(parse_config(tables(pool={"path": str(tmp_path / "pool.txt"), "limit": 0})), tmp_path / "run")
    assert result.summary["stop_reason"] == "no_parents"
