"""Annotates pairs whose better answer is known: samples judgments, and writes the right ones as training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.annotation import (
    Annotated,
    agreement,
    balanced,
    contrasting_rows,
    judgments_of,
    training_rows,
)
from fittest.fitness.judge.judging import judgment_requests
from fittest.runs.asking import ProgressLine, asked
from fittest.runs.judge.eval import JournalledVerdicts
from fittest.runs.output.atomic import write_json, write_parquet
from fittest.runs.output.together import replaced_together
from fittest.runs.sources.pair_file import write_json_lines

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend
    from fittest.evo.records import Completion, Failure
    from fittest.fitness.judge.likelihood import VerdictModel
    from fittest.fitness.judge.pair import Pair
    from fittest.runs.judge.config import JudgeConfig
    from fittest.runs.output.journal import SqliteJournal


def annotate(
    pairs: Sequence[Pair],
    config: JudgeConfig,
    out: Path,
    *,
    engine: Backend,
    journal: SqliteJournal,
    forcing: VerdictModel | None = None,
    iteration: int = 1,
) -> dict[str, Any]:
    """Samples judgments and writes train.jsonl, preferences.jsonl, judgments.parquet and agreement.json into a folder.

    Args:
        pairs: the pairs, each with its label.
        config: says how many judgments a pair gets, how they are sampled, and the seed.
        out: the folder.
        engine: the judge.
        journal: keeps every judgment, and the odds of every forced verdict.
        forcing: the judge's verdict probabilities, from which a judgment without a verdict gets one; None leaves it
            without.
        iteration: the number of this annotation, which is part of the seed of every draw.

    Returns:
        The content of agreement.json.
    """
    seeds, settings = SeedTree(config.judge.seed), config.judge
    requests = [
        request
        for pair in pairs
        for request in judgment_requests(
            pair,
            "AB",
            votes=settings.samples,
            seeds=seeds,
            sampling=settings.sampling.sampling,
            stream=Stream.ANNOTATION,
        )
    ]
    replies = asked("judgments", requests, engine, journal, together=config.engine.samples_together)
    verdicts = None if forcing is None else JournalledVerdicts(forcing, journal)
    progress = ProgressLine("pairs annotated", len(pairs))
    rows = []
    for place, pair in enumerate(pairs):
        own = replies[place * settings.samples : (place + 1) * settings.samples]
        rows.append(_annotated(pair, own, config, seeds, verdicts, iteration))
        progress.step()
    # if A won more often than B in training, the judge would learn the place
    rows = balanced(rows, seeds=seeds, iteration=iteration)
    found = {"iteration": iteration, "judge": engine.fingerprint, **agreement(rows)}
    with replaced_together(out) as new:
        write_parquet(new / "judgments.parquet", _table(rows))
        write_json_lines(new / "train.jsonl", training_rows(rows))
        write_json_lines(new / "preferences.jsonl", contrasting_rows(rows))
        write_json(new / "agreement.json", found)
    return found


def summary_line(found: dict[str, Any]) -> str:
    """Describes one annotation in a line; `found` is the content of its agreement.json."""
    return (
        f"iteration {found['iteration']}: {found['agreement']:.1%} of {found['judgments']} judgments agree with the"
        f" label, {found['readable']:.1%} have a verdict, {found['unforced']:.1%} unforced;"
        f" {found['trained_on']} of {found['pairs']} pairs to train on"
    )


def _annotated(
    pair: Pair,
    replies: Sequence[Completion | Failure],
    config: JudgeConfig,
    seeds: SeedTree,
    verdicts: VerdictModel | None,
    iteration: int,
) -> Annotated:
    # a stream of its own for each pair and iteration: pairs may come and go without changing another's draws
    draws = seeds.generator(Stream.ANNOTATION, 3, int(pair.pair_id, 16), iteration).random(len(replies)).tolist()
    log_odds: Callable[[str], float] | None = None
    if verdicts is not None:
        log_odds = partial(verdicts.log_odds, pair, "AB")
    temperature = config.judge.sampling.temperature
    judgments = judgments_of(replies, log_odds=log_odds, draws=draws, temperature=temperature)
    return Annotated.draw(pair, judgments, seeds=seeds, iteration=iteration)


def _table(rows: Sequence[Annotated]) -> pl.DataFrame:
    """Returns a row for each judgment, which says whether it was kept and why not."""
    records = [
        {
            "pair_id": row.pair.pair_id,
            "sample": sample,
            "judgment": judgment.text,
            "verdict": judgment.verdict,
            "forced": judgment.forced,
            "label": row.pair.label,
            "kept": row.dropped is None and sample == row.kept,
            "dropped": row.dropped,
        }
        for row in rows
        for sample, judgment in enumerate(row.judgments)
    ]
    kinds = {"sample": pl.Int64, "forced": pl.Boolean, "kept": pl.Boolean}
    names = ("pair_id", "sample", "judgment", "verdict", "forced", "label", "kept", "dropped")
    return pl.DataFrame(records, schema={name: kinds.get(name, pl.String) for name in names})
