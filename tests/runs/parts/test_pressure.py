"""Selection that goes on: cuts that tighten from generation to generation, and lengths that count up to a cap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.runs import parse_config, run
from tests.conftest import null_tables

TIGHTENING = {"policy": "tightening", "quantile": 0.1, "target_pass_rate": 0.4}


def finished(folder: Path, selection: dict[str, Any], **sections: dict[str, Any]) -> Path:
    sections = {"run": {"generations": 4}, "operators": {"offspring": 40}, **sections}
    run(parse_config(null_tables(selection=selection, **sections)), folder)
    return folder


def tables_of(folder: Path) -> dict[str, bytes]:
    files = [folder / "survivors.parquet", folder / "logbook.parquet", folder / "thresholds.json"]
    return {file.name: file.read_bytes() for file in [*files, *sorted((folder / "generations").glob("*.parquet"))]}


def test_cuts_tighten_until_the_wanted_share_passes_and_never_loosen(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", TIGHTENING)
    logbook = pl.read_parquet(folder / "logbook.parquet")
    for column, better in (("tau_m1", 1), ("tau_m2", 1), ("tau_m3", -1)):
        assert all(step >= 0 for step in (better * logbook[column].diff()).drop_nulls())
        assert better * logbook[column][4] > better * logbook[column][0]
    plain = pl.read_parquet(finished(tmp_path / "plain", {"quantile": 0.1}) / "logbook.parquet")
    assert plain["pass_rate"][4] > 0.6
    # the null engine answers offspring as it answers human prompts, so that the pool tells what passes
    assert logbook["pass_rate"][0] > 0.6
    assert logbook["pass_rate"][1:].mean() == pytest.approx(0.4, abs=0.15)


def test_tightening_cuts_are_raced_without_losing_a_survivor(tmp_path: Path) -> None:
    full = finished(tmp_path / "full", {**TIGHTENING, "race_round": 0})
    raced = finished(tmp_path / "raced", {**TIGHTENING, "race_round": 1})
    one, other = (pl.read_parquet(folder / "survivors.parquet") for folder in (full, raced))
    assert one.equals(other)
    cuts = ("tau_m1", "tau_m2", "tau_m3")
    assert (
        pl.read_parquet(full / "logbook.parquet")
        .select(cuts)
        .equals(pl.read_parquet(raced / "logbook.parquet").select(cuts))
    )
    stopped = pl.read_parquet(raced / "logbook.parquet")["stopped"]
    assert stopped[0] == 0
    assert (stopped[1:] > 0).all()


@pytest.mark.parametrize("slots", [2, 32])
def test_a_steady_run_with_tightening_cuts_repeats_from_its_journal(slots: int, tmp_path: Path) -> None:
    steady = {"generations": 4, "mode": "steady-state"}
    first = finished(tmp_path / "first", TIGHTENING, run=steady, engine={"latency": 0.002})
    replay = {"kind": "replay", "path": str(first / "journal.sqlite"), "slots": slots}
    again = finished(tmp_path / "again", TIGHTENING, run=steady, engine=replay)
    assert tables_of(again) == tables_of(first)
    logbook = pl.read_parquet(first / "logbook.parquet")
    assert logbook["tau_m1"][4] > logbook["tau_m1"][0]
    # all offspring of a generation met the cuts that stand beside it
    for number in range(1, 5):
        cuts = logbook.row(number, named=True)
        rows = pl.read_parquet(first / "generations" / f"{number:04d}.parquet").filter(pl.col("m2").is_not_null())
        passes = (rows["m1"] >= cuts["tau_m1"]) & (rows["m2"] >= cuts["tau_m2"]) & (rows["m3"] <= cuts["tau_m3"])
        assert passes.to_list() == rows["survived"].to_list()


def test_a_run_that_goes_on_is_the_run_that_was_longer(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", TIGHTENING)
    finished(tmp_path / "out", TIGHTENING, run={"generations": 2})
    longer = null_tables(selection=TIGHTENING, run={"generations": 4}, operators={"offspring": 40})
    run(parse_config(longer), tmp_path / "out", resume=True)
    assert tables_of(tmp_path / "out") == tables_of(whole)


def test_no_length_beyond_the_cap_earns_anything(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"quantile": 0.3, "length_cap": 100})
    pool = pl.read_parquet(folder / "generations" / "0000.parquet").drop_nulls("m2")
    free = pl.read_parquet(finished(tmp_path / "free", {"quantile": 0.3}) / "generations" / "0000.parquet")
    full = free.drop_nulls("m2")["m2"]
    assert full.max() > 100 > full.min()
    assert pool["m2"].to_list() == full.clip(upper_bound=100).to_list()
    assert json.loads((folder / "thresholds.json").read_text())["min_length"] <= 100
    survivors = pl.read_parquet(folder / "survivors.parquet")
    # the text is as long as it is
    assert survivors["rejected_length"].to_list() == survivors["rejected"].str.len_chars().to_list()
    assert survivors["rejected_length"].max() > 100
