"""Operators that use what is known, in whole runs of both modes: what they are given is what the tables say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deap import base

from fittest.evo.prompt import Prompt
from fittest.evo.records import Proposal
from fittest.operators.repair import Repair
from fittest.runs import parse_config, run
from tests.conftest import null_tables
from tests.runs.parts.test_stock import candidates
from tests.runs.test_crash import asked_again
from tests.runs.test_steady_state import results

MODES = ["generational", "steady-state"]
ALL = {"self_rip": 0.2, "mutate": 0.2, "cross": 0.1, "blend": 0.1, "reason": 0.1, "repair": 0.3}


def tables(mode: str = "generational", mix: dict[str, float] = ALL, **sections: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "run": {"seed": 3, "generations": 3, "population": 12, "mode": mode},
        "engine": {"kind": "null", "slots": 8, "sampling": {"n": 6, "max_tokens": 60}},
        "selection": {"quantile": 0.3, "confirm": 1},
        "operators": {"offspring": 24, "shots": 2, "mix": mix},
    }
    return null_tables(**{name: {**usual.get(name, {}), **sections.get(name, {})} for name in {*usual, *sections}})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_repeats_from_its_journal_at_any_speed(mode: str, tmp_path: Path) -> None:
    run(parse_config(tables(mode, engine={"latency": 0.002})), tmp_path / "run")
    replay = {"kind": "replay", "path": str(tmp_path / "run" / "journal.sqlite"), "slots": 2}
    run(parse_config(tables(mode, engine=replay)), tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "run")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_tables_are_lost_is_made_again_and_asks_nothing(mode: str, tmp_path: Path) -> None:
    config, out = parse_config(tables(mode)), tmp_path / "run"
    run(config, out)
    before = results(out)
    for file in [*out.glob("*.parquet"), *out.glob("*.json*"), *(out / "generations").iterdir()]:
        file.unlink()
    run(config, out, resume=True)
    assert results(out) == before
    assert asked_again(out) == 0


def test_every_operator_brings_offspring(tmp_path: Path) -> None:
    run(parse_config(tables()), tmp_path / "run")
    bred = candidates(tmp_path / "run").filter(pl.col("generation") > 0)
    passed = bred.filter(pl.col("gate").is_null())
    assert set(passed["operator"]) == set(ALL)
    repaired = bred.filter(pl.col("operator") == "repair")
    assert all(template.startswith("repair/m") for template in repaired["template"])


class Watched:
    """Repairs, and notes what it is given."""

    mends = True

    def __init__(self) -> None:
        self.given: list[tuple[Prompt, tuple[str, str] | None]] = []

    def __call__(
        self,
        parent: Prompt,
        exemplars: Sequence[Prompt],
        rng: np.random.Generator,
        answers: Sequence[tuple[str, str] | None],
    ) -> Proposal:
        self.given.append((parent, answers[0]))
        return Repair()(parent, exemplars, rng, answers)


def watched(out: Path, **sections: dict[str, Any]) -> Watched:
    operator = Watched()

    def customise(toolbox: base.Toolbox) -> None:
        toolbox.register("repair", operator)

    run(parse_config(tables(**sections)), out, customise=customise)
    return operator


@pytest.mark.parametrize("mode", MODES)
def test_repair_is_given_what_nearly_survived_and_its_answers(mode: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = watched(out, run={"mode": mode}).given
    rows = {row["prompt_id"]: row for row in candidates(out).iter_rows(named=True)}
    responses = pl.concat([pl.read_parquet(file) for file in sorted((out / "responses").glob("[0-9]*.parquet"))])
    unlucky = 0
    assert len(given) > 10
    for parent, answers in given:
        row = rows[parent.id]
        assert not row["survived"]
        assert len(row["failed_metrics"]) == 1 or row["draws_passed"] > 0
        drawn = responses.filter(pl.col("prompt_id") == parent.id).sort("sample")
        fresh = drawn.filter(pl.col("sample") >= 6)
        # a fresh draw that lost its race says too little
        decided = fresh if fresh.height == 6 else drawn.filter(pl.col("sample") < 6)
        unlucky += fresh.height == 6
        assert answers is not None
        for answer, extreme in zip(answers, (decided["reward"].max(), decided["reward"].min()), strict=True):
            assert answer in decided.filter(pl.col("reward") == extreme)["response"].to_list()
    assert unlucky


def test_what_is_shown_again_costs_nothing(tmp_path: Path) -> None:
    watched(tmp_path / "run", operators={"mix": {"repair": 1.0}})
    said = json.loads((tmp_path / "run" / "summary.json").read_text())
    drawn = pl.concat([pl.read_parquet(file) for file in (tmp_path / "run" / "responses").glob("[0-9]*.parquet")])
    assert said["rollouts"] + said["rollouts_confirm"] == drawn.height
    logbook = pl.read_parquet(tmp_path / "run" / "logbook.parquet")
    assert logbook["rollouts"].sum() == said["rollouts"]


def test_in_a_control_arm_repair_breeds_from_what_the_others_breed_from(tmp_path: Path) -> None:
    given = watched(tmp_path / "run", run={"arm": "one-shot"}, operators={"mix": {"repair": 1.0}}).given
    rows = {row["prompt_id"]: row for row in candidates(tmp_path / "run").iter_rows(named=True)}
    assert given
    assert all(rows[parent.id]["survived"] and rows[parent.id]["operator"] == "pool" for parent, _ in given)
    assert all(answers is not None for _, answers in given)


def test_an_evaluate_of_the_users_own_has_no_answers_to_show(tmp_path: Path) -> None:
    operator = Watched()

    def evaluate(individual: Prompt) -> tuple[float, float, float]:
        return (float(len(individual.text) % 7), 10.0, 1.0)

    def customise(toolbox: base.Toolbox) -> None:
        toolbox.register("repair", operator)
        toolbox.register("evaluate", evaluate)

    run(parse_config(tables(mix={"repair": 1.0})), tmp_path / "run", customise=customise)
    assert operator.given
    assert all(answers is None for _, answers in operator.given)
