"""Prepares survivors for an exporter: what it reads beyond survivors.parquet, and which survivors are left out."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fittest.evo.errors import FittestError
from fittest.fitness.pairing import Pairing
from fittest.runs.output.exporters import Exporter
from fittest.runs.output.recorded_responses import (
    RESPONSE_COLUMNS,
    paired_anew,
    recorded_responses,
    with_reward_moments,
)
from fittest.runs.output.survivors import read_survivors
from fittest.runs.output.together import settle
from fittest.runs.reading.objects import Shape, check_shape, read_object

_FACTS: Shape = {"run": {"seed": int}, "engine": {"system": str, "sampling": {"n": int}}}

_ADDED_BY_LATER_RUNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "chosen_truncated": pl.Boolean, "rejected_truncated": pl.Boolean, "reward_id": pl.String,
}  # fmt: skip
"""The columns that survivors.parquet lacks if an earlier version or a filter wrote it."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Holds what an export takes from run.toml; a filter's folder has a system prompt alone, in its summary.json.

    Attributes:
        seed: the seed of the run.
        system: the system prompt of its answers; None if they had none.
        n: the number of responses of one draw; None if it is not on record.
    """

    seed: int = 0
    system: str | None = None
    n: int | None = None


def run_facts(folder: Path) -> RunFacts:
    """Reads them from the run.toml of a folder, or from the summary.json of a filter.

    Args:
        folder: the folder of a run or a filter.

    Raises:
        FittestError: the file cannot be read.
    """
    settle(folder)
    run, summary = folder / "run.toml", folder / "summary.json"
    if not run.is_file():
        system = read_object(summary).get("system") if summary.is_file() else None
        return RunFacts(system=system if isinstance(system, str) else None)
    tables = read_object(run, parse=tomllib.loads)
    check_shape(run, tables, _FACTS, partly=True)
    engine = tables.get("engine", {})
    return RunFacts(tables.get("run", {}).get("seed", 0), engine.get("system"), engine.get("sampling", {}).get("n"))


@dataclass(frozen=True, slots=True)
class Exported:
    """Holds the survivors of a folder, and their responses if the format is made of them."""

    survivors: pl.DataFrame
    responses: pl.DataFrame | None


def exported_survivors(folder: Path, facts: RunFacts, exporter: Exporter, pairing: Pairing | None) -> Exported:
    """Returns the survivors with all that an exporter may read.

    Beside the columns of survivors.parquet these are: `index`, the place in that table; `system`, the system prompt;
    `split`, train or test; `reward_mean` and `reward_std`, over the recorded responses; `mixed_rewards`, whether the
    table holds rewards of several judges.

    Args:
        folder: the folder of a run or a filter.
        facts: what its run.toml says.
        exporter: the format.
        pairing: how pairs are chosen anew; None keeps those of the run.

    Raises:
        FittestError: a table cannot be read, or the responses that are needed were not kept.
    """
    survivors = complete_survivors(read_survivors(folder), facts.system)
    responses = recorded_responses(folder, survivors, _columns_read(exporter, pairing))
    if responses is None and (exporter.by_response or pairing is not None):
        needs = "this format" if exporter.by_response else "--pairing"
        raise FittestError(f"{folder}: holds no responses/NNNN.parquet, which {needs} reads; runs write these tables")
    survivors = with_reward_moments(survivors, responses)
    if responses is not None and pairing is not None and not survivors.is_empty():
        # later samples are draws that confirm a prompt; a pair is made of the first draw alone, as in the run
        first_draw = responses if facts.n is None else responses.filter(pl.col("sample") < facts.n)
        survivors = paired_anew(survivors, first_draw, pairing, facts.seed)
    return Exported(survivors, responses if exporter.by_response else None)


def _columns_read(exporter: Exporter, pairing: Pairing | None) -> tuple[str, ...]:
    """Returns the columns of the responses that are needed; their texts are most of what such a table holds."""
    if exporter.by_response:
        return RESPONSE_COLUMNS
    return ("reward",) if pairing is None else ("response", "reward", "reward_id", "truncated")


def complete_survivors(survivors: pl.DataFrame, system: str | None) -> pl.DataFrame:
    """Adds what every exporter may read and an older table lacks.

    Args:
        survivors: a survivors.parquet.
        system: the system prompt of the run.
    """
    absent = [name for name in _ADDED_BY_LATER_RUNS if name not in survivors.columns]
    survivors = survivors.with_columns(pl.lit(None, dtype=_ADDED_BY_LATER_RUNS[name]).alias(name) for name in absent)
    return survivors.with_columns(
        index=pl.int_range(pl.len(), dtype=pl.Int64),
        system=pl.lit(system, dtype=pl.String),
        split=pl.lit("train"),
        reward_gap=pl.col("chosen_reward") - pl.col("rejected_reward"),
        mixed_rewards=pl.col("reward_id").n_unique() > 1,
    )


@dataclass(frozen=True, slots=True)
class Sieve:
    """Says which survivors an export leaves out.

    Attributes:
        drop_truncated: whether a survivor is left out whose chosen answer was cut; one of which this is not known
            stays.
        min_gap: the least reward gap of a pair; None sets no bound.
    """

    drop_truncated: bool = False
    min_gap: float | None = None

    def sifted(self, survivors: pl.DataFrame, exporter: Exporter) -> tuple[pl.DataFrame, dict[str, int]]:
        """Returns the survivors that an exporter gets, and how many are left out for each reason.

        Args:
            survivors: the survivors, from `survivors_to_export`.
            exporter: the format.
        """
        reason = pl.lit(None, dtype=pl.String)
        # the last rule is tried first here, so that the first one that applies is the outermost
        for words, applies in reversed(list(self._rules(exporter).items())):
            reason = pl.when(applies).then(pl.lit(words)).otherwise(reason)
        marked = survivors.with_columns(reason.alias("left_out"))
        counted = marked.drop_nulls("left_out").group_by("left_out").len().sort("left_out")
        kept = marked.filter(pl.col("left_out").is_null()).drop("left_out")
        return kept, dict(counted.iter_rows())

    def _rules(self, exporter: Exporter) -> dict[str, pl.Expr]:
        rules: dict[str, pl.Expr] = {}
        if exporter.paired:
            rules["no two scored answers"] = pl.col("chosen").is_null() | pl.col("rejected").is_null()
            rules["chosen and rejected are equal"] = pl.col("chosen") == pl.col("rejected")
        if self.drop_truncated:
            rules["the chosen answer was cut at max_tokens"] = pl.col("chosen_truncated").fill_null(False)
        if self.min_gap is not None:
            rules["no reward gap is on record"] = pl.col("reward_gap").is_null()
            rules[f"the reward gap is below {self.min_gap:g}"] = pl.col("reward_gap") < self.min_gap
        return rules
