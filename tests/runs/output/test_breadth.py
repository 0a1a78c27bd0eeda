"""Breadth at equal size: in the logbook, in the summary, and in what a person is shown."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from click.testing import CliRunner

from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.breadth import breadth_lines, breadth_of
from tests.conftest import null_tables


def _line(generation: int, mean: float | None, sd: float = 0.0) -> dict[str, object]:
    size = None if mean is None else 12
    return {"generation": generation, "vendi_equal": mean, "vendi_equal_sd": sd, "vendi_equal_size": size}


def test_the_first_and_the_last_generation_that_have_a_breadth_are_told() -> None:
    found = breadth_of([_line(0, None), _line(1, 9.25), _line(2, 8.5, 0.25), _line(3, None)])
    assert breadth_lines({"breadth": found}) == [
        "breadth (Vendi score of 12 parents): 9.2 in generation 1, 8.5 ± 0.2 in generation 2"
    ]


def test_nothing_is_told_where_nothing_is_known() -> None:
    assert breadth_of([_line(0, None)]) is None
    assert breadth_lines({"breadth": None}) == []
    assert breadth_lines({}) == []  # a summary of an earlier fittest
    assert breadth_lines({"breadth": breadth_of([_line(0, 9.25)])}) == [
        "breadth (Vendi score of 12 parents): 9.2 in generation 0"
    ]


def test_all_generations_of_a_run_have_one_size(tmp_path: Path) -> None:
    tables = null_tables(run={"population": 0}, selection={"quantile": 0.2})
    folder = tmp_path / "run"
    summary = run(parse_config(tables), folder).summary
    logbook = pl.read_parquet(folder / "logbook.parquet").select("diversity", "^vendi_equal.*$")
    assert logbook["vendi_equal_size"].n_unique() == 1
    assert logbook["vendi_equal"][0] == logbook["diversity"][0]
    assert logbook["diversity"][-1] > logbook["vendi_equal"][-1] > 1
    assert logbook["vendi_equal_sd"].to_list()[0] == 0 < logbook["vendi_equal_sd"].to_list()[-1]
    assert summary["breadth"]["last"]["vendi_equal"] == logbook["vendi_equal"][-1]
    said = CliRunner().invoke(main, ["status", str(folder)]).stdout
    assert breadth_lines(summary)[0] in said
