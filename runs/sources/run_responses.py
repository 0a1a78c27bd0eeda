"""Reads the responses that runs have sealed, and response tables of any kind together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.output.folder import RunFolder
from fittest.runs.output.sealed import refuse_changed
from fittest.runs.reading.parquet import read_table
from fittest.runs.sources.responses import (
    Columns,
    ResponseTable,
    group_by_prompt,
    response_rows,
    weighted_sum,
    with_rewards,
)

if TYPE_CHECKING:
    from fittest.runs.config import Config

_BIRTH = ("prompt", "generation", "slot", "operator", "parents", "exemplars", "diversity")

_ENDED_EARLY = {"target_survivors", "no_parents"}
"""A run that ended for one of these is complete, although it has fewer generations than it could have had."""


class _Sealed(NamedTuple):
    """Holds the rows of one or more sealed generations, the births of their prompts, and what a reader should know.

    `system` is the run's system prompt.
    """

    rows: pl.DataFrame
    births: pl.DataFrame
    warnings: list[str]
    system: str | None


def holds_run(path: Path) -> bool:
    """Tells whether a path is the folder of a run."""
    return (path / "run.toml").is_file()


def gather_responses(paths: Sequence[Path], columns: Columns, *, generations: Sequence[int] = (0,)) -> ResponseTable:
    """Reads runs and response tables as one table.

    Args:
        paths: folders of runs, and Parquet, JSON lines or CSV files with one row for each response. Rows of the same
            prompt are put together, in this order.
        columns: names the columns of the files; of a run, only its rewards count.
        generations: the sealed generations that are read of each run.

    Raises:
        FittestError: there is nothing to read, or it cannot be used; the message names what.
    """
    places = [os.path.realpath(path) for path in paths]
    if twice := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise FittestError(f"{twice[0]}: is given twice; each of its responses would count as two")
    if all(map(holds_run, paths)) and (columns.prompt, columns.response) != (Columns().prompt, Columns().response):
        raise FittestError(
            f"{paths[0]}: is a run, whose columns have their own names; --prompt-column and --response-column are of"
            " other tables"
        )
    runs = {path: _read_run(path, columns, generations) for path in paths if holds_run(path)}
    if not runs and tuple(generations) != (0,):
        raise FittestError(f"generations are of a run, and {paths[0]} is none; a table has no generations to choose")
    frames = [runs[path].rows if path in runs else response_rows(path, columns) for path in paths]
    table = group_by_prompt(pl.concat(frames, how="diagonal"), where=", ".join(map(str, paths)))
    if not runs:
        return table
    births = pl.concat([run.births for run in runs.values()]).unique("prompt", keep="first", maintain_order=True)
    warnings = [line for run in runs.values() for line in run.warnings]
    systems = {runs[path].system if path in runs else None for path in paths}
    if len(systems) > 1:
        warnings.append("not all responses have the same system prompt, so exports of this folder have none")
    return replace(table, births=births, warnings=tuple(warnings), system=systems.pop() if len(systems) == 1 else None)


def _read_run(path: Path, columns: Columns, generations: Sequence[int]) -> _Sealed:
    """Reads some generations of a run: the first draw of each prompt that was drawn in full."""
    folder = RunFolder(path)
    config, sealed = folder.config(), _sealed_generations(folder)
    for generation in generations:
        if generation not in sealed:
            raise FittestError(f"{path}: generation {generation} is not sealed; sealed are {_listed(sealed)}")
    wanted = sorted(set(generations))
    try:
        parts = [_read_generation(folder, generation, columns, config) for generation in wanted]
    except pl.exceptions.PolarsError as error:  # a column is missing, or of another type
        said = visible(str(error).partition("\n")[0])
        raise FittestError(f"{path}: its tables are not as fittest writes them ({said})") from error
    warnings = [line for part in parts for line in part.warnings]
    reason = (folder.summary() or {}).get("stop_reason")
    if len(sealed) <= config.run.generations and reason not in _ENDED_EARLY:
        warnings.append(
            f"{path.resolve().name}: the run is not complete; sealed are {_listed(sealed)} of {config.run.generations}"
        )
    rows, births = pl.concat([part.rows for part in parts]), pl.concat([part.births for part in parts])
    return _Sealed(rows, births, warnings, config.engine.system)


def _sealed_generations(folder: RunFolder) -> list[int]:
    """Returns the generations of which both tables are there; responses are written first."""
    if not folder.responses.is_dir() and list(folder.generations.glob("*.parquet")):
        raise FittestError(
            f"{folder.path}: has no responses/, since an earlier fittest wrote it; to have them written, run its"
            f' run.toml in a new folder with engine.kind = "replay" and engine.path = "{folder.journal_file}"'
        )
    sealed = [int(file.stem) for file in sorted(folder.generations.glob("[0-9]*.parquet"))]
    sealed = [number for number in sealed if (folder.responses / f"{number:04d}.parquet").is_file()]
    if not sealed:
        raise FittestError(
            f"{folder.path}: no generation is sealed yet; go on with: fittest run {folder.path} --resume"
        )
    return sealed


def _read_generation(folder: RunFolder, generation: int, columns: Columns, config: Config) -> _Sealed:
    births = _table(folder.generations / f"{generation:04d}.parquet").with_columns(
        generation=pl.lit(generation, dtype=pl.Int64)
    )
    # a duplicate that the exact gate turned away has the id of its original
    births = births.filter(pl.col("gate").is_null())
    raced, full = births.filter("censored"), births.filter(~pl.col("censored"))
    origins = [name for name in ("source", "licence") if name in births.columns]
    path = folder.responses / f"{generation:04d}.parquet"
    found = _table(path).filter(pl.col("sample") < config.engine.sampling.n)
    if unknown := [name for name in columns.rewards if name not in found.columns]:
        raise FittestError(f"{path}: no column {unknown[0]!r}, wanted as reward; a run has one, {'reward'!r}")
    rows = found.join(full.select("prompt_id", "prompt", *origins), on="prompt_id", how="inner", maintain_order="left")
    cells = rows.select("prompt", "response", *origins, "truncated", *columns.reward_names)
    return _Sealed(
        with_rewards(cells, weighted_sum(rows, columns.rewards)),
        full.select(_BIRTH),
        [
            *_raced(generation, raced.height, births.height),
            *_unanswered(generation, full.join(rows, on="prompt_id", how="anti").height, births.height),
        ],
        config.engine.system,
    )


def _raced(generation: int, raced: int, accepted: int) -> list[str]:
    if not raced:
        return []
    return [
        f"generation {generation}: {raced} of {accepted} prompts lost a race and have not all their responses; they"
        " are left out; cuts that are fitted to the rest are stricter than the run's, and cuts that are given are not"
    ]


def _unanswered(generation: int, unanswered: int, accepted: int) -> list[str]:
    if not unanswered:
        return []
    return [
        f"generation {generation}: {unanswered} of {accepted} prompts have no response on record, since an evaluate of"
        " the run's own gave their metrics; they are left out"
    ]


def _table(path: Path) -> pl.DataFrame:
    refuse_changed(path)
    return read_table(path)


def _listed(sealed: Sequence[int]) -> str:
    return f"0 to {sealed[-1]}" if list(sealed) == list(range(sealed[-1] + 1)) else ", ".join(map(str, sealed))
