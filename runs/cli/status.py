"""`fittest status` says how far a run is, from its files alone, also while another process works on it."""

from __future__ import annotations

from pathlib import Path

import click

from fittest.evo.errors import FittestError
from fittest.runs.cli.paths import PATH
from fittest.runs.terminal import say


@click.command("status")
@click.argument("folder", type=PATH, metavar="DIR")
def command(folder: Path) -> None:
    """Say how far the run in DIR is, and whether a process is working on it."""
    import polars as pl

    from fittest.runs.cli.run import report
    from fittest.runs.output.folder import RunFolder
    from fittest.runs.output.sealed import refuse_changed
    from fittest.runs.reading.parquet import read_table

    run = RunFolder(folder)
    if not run.exists:
        raise FittestError(f"{folder}: no run here (no run.toml)")
    state = "running" if run.in_use() else "not running"
    summary = run.summary()
    if summary is None or not run.logbook_file.exists():
        say(f"{folder}: {state}; no generation is finished yet")
        _say_how_to_go_on(folder, state)
        return
    done = summary["generations"]
    say(f"{folder}: {state}; {done} of {run.config().run.generations} generations of offspring finished")
    columns = ["generation", "evaluated", "passed", "pass_rate", "tau_m1", "tau_m2", "tau_m3", "diversity"]
    refuse_changed(run.logbook_file)
    logbook = read_table(run.logbook_file, columns)
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=-1, tbl_width_chars=100):
        say(*str(logbook).splitlines())
    say(*report(run, summary))
    if not run.finished(run.config()):
        _say_how_to_go_on(folder, state)


def _say_how_to_go_on(folder: Path, state: str) -> None:
    if state == "not running":
        say(f"go on with: fittest run {folder} --resume")
