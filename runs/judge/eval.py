"""Judging a file of pairs by a language model, by verdict probabilities, by a reward, or by recorded verdicts."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fittest.evo.errors import FittestError
from fittest.evo.measurements import Measurements
from fittest.evo.records import Missing
from fittest.evo.seeds import SeedTree
from fittest.evo.worker import Worker
from fittest.fitness.judge.accuracy import Figures, accuracy_by_subset
from fittest.fitness.judge.judging import read_verdicts, verdict_requests, wording_id
from fittest.fitness.judge.likelihood import likelihood_verdicts
from fittest.fitness.judge.rewarding import reward_verdicts
from fittest.runs.asking import Told, asked, journal_at
from fittest.runs.judge.judges import reward_named, verdict_model
from fittest.runs.output.atomic import write_json, write_parquet
from fittest.runs.parts.engines import backend_of

if TYPE_CHECKING:
    from fittest.evo.protocols import Reward
    from fittest.evo.records import Request
    from fittest.fitness.judge.likelihood import VerdictModel
    from fittest.fitness.judge.pair import Pair
    from fittest.fitness.judge.verdict import Order, Verdicts
    from fittest.runs.judge.config import JudgeConfig
    from fittest.runs.output.journal import SqliteJournal
    from fittest.runs.sources.pair_file import PairTable


@dataclass(frozen=True)
class Judged:
    """Verdicts on pairs, in their order, and what gave them."""

    verdicts: Sequence[Verdicts]
    judge: str


def judged_by_engine(pairs: Sequence[Pair], config: JudgeConfig, journal: SqliteJournal) -> Judged:
    """Greedy verdicts, or the majority of several votes, of the configured engine."""
    engine, settings = backend_of(config.engine), config.judge
    sampling = settings.sampling.greedy if settings.votes == 1 else settings.sampling.sampling
    requests: list[Request] = verdict_requests(
        pairs, votes=settings.votes, seeds=SeedTree(settings.seed), sampling=sampling
    )
    replies = asked("judgments", requests, engine, journal, together=config.engine.samples_per_request)
    return Judged(read_verdicts(replies, votes=settings.votes), f"{engine.fingerprint}, {settings.votes} votes")


def judged_by_likelihood(pairs: Sequence[Pair], model: VerdictModel, journal: SqliteJournal) -> Judged:
    """The likelier of the two verdicts, without any reasoning before it."""
    known = JournalledVerdicts(model, journal)
    told = Told("pairs judged by likelihood", len(pairs))
    verdicts = []
    for pair in pairs:
        verdicts.append(likelihood_verdicts(known, pair))
        told.step()
    return Judged(verdicts, f"likelihood:{model.fingerprint}")


def judged_by_reward(pairs: Sequence[Pair], reward: Reward) -> Judged:
    """The answer with the higher reward wins."""
    prompts = [pair.instruction for pair in pairs]
    scores = [
        scored(reward, prompts, answers)
        for answers in ([pair.response_a for pair in pairs], [pair.response_b for pair in pairs])
    ]
    return Judged(reward_verdicts(*scores), f"reward:{reward.fingerprint}")


def recorded_verdicts(table: PairTable, path: Path) -> Judged:
    """The verdicts that the file brings along.

    Raises:
        FittestError: it brings none.
    """
    if table.recorded is None:
        raise FittestError(
            f"{path}: holds no recorded verdicts; expected columns recorded_NAME_verdict and"
            " recorded_NAME_verdict_swapped in every row, or leave --recorded out"
        )
    return Judged(table.recorded, "recorded")


def judged_as_asked(
    pairs: Sequence[Pair], config: JudgeConfig, out: Path, *, likelihood: bool = False, reward: str | None = None
) -> Judged:
    """Verdicts of the configured engine, by what it says or by its probabilities, or of a reward by name.

    Raises:
        FittestError: the engine gives no probabilities, or there is no such reward.
    """
    if reward is not None:
        return judged_by_reward(pairs, reward_named(reward))
    with journal_at(out / "journal.sqlite") as journal:
        if likelihood:
            return judged_by_likelihood(pairs, verdict_model(config.engine), journal)
        return judged_by_engine(pairs, config, journal)


def write_verdicts(out: Path, table: PairTable, judged: Judged) -> dict[str, Any]:
    """Write verdicts.parquet and summary.json into a folder; returns what summary.json holds."""
    won = Counter(verdict.winner for verdict in judged.verdicts)
    said = [side for verdict in judged.verdicts for side in (verdict.ab, verdict.ba)]
    without = sum(None in (verdict.ab, verdict.ba) for verdict in judged.verdicts)
    given = len(said) - said.count(None)
    found = {
        "judge": judged.judge,
        "pairs": len(table.pairs),
        "a_wins": won["A"],
        "b_wins": won["B"],
        "orders_disagree": won[None] - without,
        "no_verdict": without,
        "chose_first": 100 * said.count("A") / given if given else None,
        "ties_left_out": table.ties,
        "rows_skipped": table.skipped,
        "warnings": list(table.warnings),
    }
    write_parquet(out / "verdicts.parquet", _verdict_table(table.pairs, judged.verdicts))
    write_json(out / "summary.json", found)
    return found


def write_evaluation(out: Path, table: PairTable, judged: Judged, *, seed: int = 0) -> dict[str, Figures]:
    """As `write_verdicts`, and eval.json; returns what eval.json holds."""
    write_verdicts(out, table, judged)
    figures = accuracy_by_subset(table.pairs, judged.verdicts, seed=seed)
    write_json(out / "eval.json", figures)
    return figures


class JournalledVerdicts:
    """Gives verdict log-odds out of a journal, which keeps each as soon as it is known.

    Args:
        model: computes log-odds.
        journal: keeps them under the model's fingerprint.
    """

    def __init__(self, model: VerdictModel, journal: SqliteJournal) -> None:
        self._model = model
        self._journal = journal

    @property
    def fingerprint(self) -> str:
        """Identifies the model."""
        return self._model.fingerprint

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """Returns what `VerdictModel.log_odds` does."""
        name = f"verdict:wording={wording_id()}:{self.fingerprint}"
        subject = hashlib.sha256(f"{pair.pair_id}:{order}:{begun}".encode()).hexdigest()
        measurements = Measurements(self._journal, name, {subject: (pair, order, begun)})
        value = measurements.complete_now(self._measured)[subject]
        return math.nan if isinstance(value, Missing) else value

    def _measured(self, shown: Sequence[tuple[Pair, Order, str]]) -> list[float | Missing]:
        values = [self._model.log_odds(*one) for one in shown]
        return [Missing("longer than the model reads") if math.isnan(value) else value for value in values]


def scored(reward: Reward, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[float | Missing | None]:
    """The rewards of pairs of texts, whether the reward gives them at once or is awaited."""
    found: Sequence[float | Missing | None] = asyncio.run(
        Worker("reward").call(reward.score, prompts, responses, quick=True)
    )
    return found


def _verdict_table(pairs: Sequence[Pair], verdicts: Sequence[Verdicts]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "pair_id": [pair.pair_id for pair in pairs],
            "subset": [pair.subset for pair in pairs],
            "label": [pair.label for pair in pairs],
            "verdict_ab": [verdict.ab for verdict in verdicts],
            "verdict_ba": [verdict.ba for verdict in verdicts],
            "winner": [verdict.winner for verdict in verdicts],
            "margin": [verdict.margin for verdict in verdicts],
            "instruction": [pair.instruction for pair in pairs],
            "response_a": [pair.response_a for pair in pairs],
            "response_b": [pair.response_b for pair in pairs],
        },
        schema_overrides={
            **dict.fromkeys(("label", "verdict_ab", "verdict_ba", "winner"), pl.String),
            "margin": pl.Float64,
        },
    )
