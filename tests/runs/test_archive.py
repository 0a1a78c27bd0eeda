"""Whole runs that breed from the elites of cells: both forms of the loop, resumed, with and without labels."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.backends.null import Null
from fittest.evo.elites import Elites
from fittest.evo.engines import Engine, Engines
from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution
from fittest.evo.records import Completion, Request
from fittest.fitness.judge.labels import Label
from fittest.runs import parse_config, run
from fittest.runs.output.breadth import breadth_lines
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts import packages
from fittest.runs.parts.assembly import assemble, parts_of
from tests.conftest import null_tables

pytest.importorskip("ribs", reason="the extra `archive` is not installed")

MODES = ("generational", "steady-state")
TABLES = ("survivors.parquet", "logbook.parquet", "generations/0000.parquet", "generations/0002.parquet")


class Labelling(Null):
    """A null engine that labels a prompt by its text, every fourth one unreadably, and counts what it was asked."""

    fingerprint = "labelling"

    def __init__(self) -> None:
        super().__init__(slots=4)
        self.asked: Counter[str] = Counter()

    async def sample(self, request: Request) -> Completion:
        self.asked[request.stage] += 1
        if request.stage != "judge":
            return await super().sample(request)
        number = int(hashlib.sha256(request.user_text.encode()).hexdigest(), 16)
        category, length = Label.CATEGORIES[number % 5], Label.LENGTHS[number % 3]
        text = f"Category: {category}\nComplexity: {1 + number % 2}\nLength: {length}"
        return Completion(text if number % 4 else "I cannot tell.", "stop", 80, 12)


def _tables(mode: str, kind: str, **more: Any) -> dict[str, Any]:
    return null_tables(run={"mode": mode}, archive={"kind": kind, "cells": 12}, **more)


def _labelled(mode: str, kind: str, journal: SqliteJournal, confirm: int = 0) -> tuple[Evolution, Labelling]:
    """Runs with an engine that gives labels."""
    config = parse_config(_tables(mode, kind, selection={"confirm": confirm}))
    engine = Labelling()
    parts = replace(parts_of(config), engines=Engines(Engine(engine)))
    evolution = assemble(config, parts, journal=journal)
    asyncio.run(evolution.run())
    return evolution, engine


@pytest.mark.parametrize("mode", MODES)
def test_parents_and_exemplars_are_elites(mode: str, tmp_path: Path) -> None:
    result = run(parse_config(_tables(mode, "cvt")), tmp_path / "run")
    evolution = result.evolution
    assert evolution is not None
    assert isinstance(evolution.cells, Elites)
    survivors = {prompt.id: prompt for prompt in evolution.state.survivors}
    cell_of = dict(zip(survivors, evolution.cells.cells_of(list(survivors.values())), strict=True))
    offspring = [prompt for generation in evolution.state.finished[1:] for prompt in generation.candidates]
    shown = [[*prompt.birth.parents, *prompt.birth.exemplars] for prompt in offspring]
    assert offspring
    # all of a slot's family lie in cells of their own, as long as there are enough filled cells
    assert all(len({cell_of[identity] for identity in family}) == len(family) for family in shown)
    logbook = pl.read_parquet(tmp_path / "run" / "logbook.parquet")
    assert logbook["coverage"][-1] == len(set(cell_of.values())) / 12
    assert logbook["qd_score"].is_between(0, 12 * logbook["coverage"], closed="none").all()
    assert result.summary["archive"]["filled"] == len(set(cell_of.values()))
    assert breadth_lines(result.summary)[-1].startswith(
        f"cells with a survivor: {len(set(cell_of.values()))} of 12, QD"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_was_stopped_half_way_ends_with_the_same_tables(mode: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(parse_config(_tables(mode, "cvt")), whole)
    for cap in (120, 190, 0):
        run(parse_config(_tables(mode, "cvt", budget={"max_requests": cap})), stopped, resume=True)
    if mode == "steady-state":
        # where it stopped, other offspring may have been bred meanwhile; that order repeats
        again = tmp_path / "again"
        again.mkdir()
        for name in ("run.toml", "journal.sqlite"):
            (again / name).write_bytes((stopped / name).read_bytes())
        run(parse_config(_tables(mode, "cvt", budget={"max_requests": 0})), again, resume=True)
        whole = again
    for name in TABLES:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["labels", "both"])
def test_each_survivor_is_labelled_once_and_never_again(kind: str, mode: str) -> None:
    journal = SqliteJournal(":memory:")
    first, engine = _labelled(mode, kind, journal)
    assert engine.asked["judge"] == len(first.state.survivors) > 20
    assert first.cells.count == (12 if kind == "both" else 1) * 15 * 10 * 5
    assert 0 < first.cells.unplaced < len(first.state.survivors)
    assert first.cells.notes == [
        f"{first.cells.unplaced} of {len(first.state.survivors)} survivors are in no cell: the engine's label is"
        " unreadable"
    ]
    charged = sum(prompt.spent["judge"].requests for prompt in first.state.survivors)
    assert charged == len(first.state.survivors)
    again, silent = _labelled(mode, kind, journal)
    assert not silent.asked
    assert again.logbook == first.logbook
    assert [prompt.id for prompt in again.state.survivors] == [prompt.id for prompt in first.state.survivors]


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_is_not_confirmed_is_not_labelled(mode: str) -> None:
    evolution, engine = _labelled(mode, "labels", SqliteJournal(":memory:"), confirm=1)
    candidates = [prompt for generation in evolution.state.finished for prompt in generation.candidates]
    assert any(prompt.fresh and not prompt.survived for prompt in candidates)
    assert engine.asked["judge"] == len(evolution.state.survivors) > 0


def test_an_engine_that_gives_no_label_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    summary = run(parse_config(_tables("generational", "labels")), tmp_path / "run").summary
    survivors = summary["survivors"]
    assert survivors > 15
    assert (
        f"{survivors} of {survivors} survivors are in no cell: the engine's label is unreadable" in summary["warnings"]
    )
    assert summary["archive"]["coverage"] == 0


def test_cells_of_a_small_pool_are_told(tmp_path: Path) -> None:
    tables = null_tables(archive={"kind": "cvt"})
    (warning,) = run(parse_config(tables), tmp_path / "run").summary["warnings"]
    assert warning == "archive.cells = 256, but the pool has 36 different prompts: there are 36 cells"


def test_without_an_archive_the_cells_are_counted_and_decide_nothing(tmp_path: Path) -> None:
    plain = run(parse_config(null_tables()), tmp_path / "plain")
    other = run(parse_config(null_tables(archive={"cells": 3})), tmp_path / "other")
    assert plain.survivors.equals(other.survivors)
    assert plain.summary["archive"]["cells"] == 36
    assert other.summary["archive"] == {
        "kind": "none", "cells": 3, "filled": 3, "coverage": 1.0, "qd_score": None, "unplaced": 0,
    }  # fmt: skip
    assert not plain.summary["warnings"]


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "ribs" else object())
    with pytest.raises(FittestError) as raised:
        run(parse_config(_tables("generational", "cvt")), tmp_path / "run")
    assert str(raised.value) == 'archive.kind = "cvt" needs ribs: pip install "fittest[archive]"'
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"archive": {"kind": "cvt"}, "run": {"arm": "one-shot"}}, 'archive.kind "none" or run.arm "evolution"'),
        ({"archive": {"kind": "grid"}}, "archive.kind = 'grid'"),
        ({"archive": {"cells": 0}}, "archive.cells = 0"),
        ({"archive": {"cell": 4}}, "did you mean archive.cells?"),
    ],
)
def test_a_wrong_archive_is_one_line(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError) as raised:
        parse_config(null_tables(**tables))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
