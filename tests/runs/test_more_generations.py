"""A finished run goes on when it is given more generations, and ends as if it had had them from the beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.runs.config import parse_config
from fittest.runs.session import run
from tests.conftest import null_tables

TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json")


def tables_of(folder: Path) -> dict[str, bytes]:
    sealed = [file for name in ("generations", "responses") for file in sorted((folder / name).glob("*.parquet"))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in [*(folder / n for n in TABLES), *sealed]}


PARETO = {"policy": "pareto"}
PER_GENERATION = {"policy": "per-generation"}
ABSOLUTE = {"policy": "absolute", "min_reward": 0.2, "min_length": 10, "max_gap": 0.9}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "selection"), [(0, {}), (1, {}), (1, PARETO), (1, PER_GENERATION), (1, ABSOLUTE)], ids=str
)
def test_raised_generations_are_run(first: int, selection: dict[str, Any], tmp_path: Path) -> None:
    few, many = (
        parse_config(null_tables(run={"generations": number}, operators={"offspring": 8}, selection=selection))
        for number in (first, 2)
    )
    run(few, tmp_path / "out")
    assert run(few, tmp_path / "out", resume=True).evolution is None
    result = run(many, tmp_path / "out", resume=True)
    assert (result.summary["stop_reason"], result.summary["generations"]) == ("generations", 2)
    run(many, tmp_path / "whole")
    assert tables_of(tmp_path / "out") == tables_of(tmp_path / "whole")
    # now that it is finished, it stays so
    assert run(many, tmp_path / "out", resume=True).evolution is None


def test_a_steady_state_run_goes_on_from_the_order_that_it_had(tmp_path: Path) -> None:
    few, many = (
        parse_config(null_tables(run={"generations": n, "mode": "steady-state"}, engine={"latency": 0.002}))
        for n in (1, 3)
    )
    run(few, tmp_path / "out")
    before = tables_of(tmp_path / "out")
    assert run(many, tmp_path / "out", resume=True).summary["generations"] == 3
    after = tables_of(tmp_path / "out")
    # the re-test is of the survivors of all generations, which have become more
    sealed = [name for name in before if "/0" in name]
    assert {name: after[name] for name in sealed} == {name: before[name] for name in sealed}
    assert pl.read_parquet(tmp_path / "out" / "logbook.parquet")["generation"].to_list() == [0, 1, 2, 3]


def test_cuts_that_depend_on_the_number_of_generations_allow_no_more(tmp_path: Path) -> None:
    few, many = (
        parse_config(
            null_tables(
                run={"generations": n}, selection={"policy": "annealed", "quantile": 0.2, "final_quantile": 0.5}
            )
        )
        for n in (1, 2)
    )
    run(few, tmp_path / "out")
    with pytest.raises(FittestError, match=r"was begun otherwise: run\.generations was 1, now 2"):
        run(many, tmp_path / "out", resume=True)


def test_fewer_generations_are_refused(tmp_path: Path) -> None:
    run(parse_config(null_tables()), tmp_path / "out")
    with pytest.raises(FittestError, match=r"run\.generations was 2, now 1"):
        run(parse_config(null_tables(run={"generations": 1})), tmp_path / "out", resume=True)
