"""Judges a file of pairs by a language model, by verdict probabilities, by a reward, or by recorded verdicts."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
from fittest.runs.asking import ProgressLine, asked, journal_at
from fittest.runs.judge.judges import reward_named, verdict_model
from fittest.runs.output.atomic import write_json, write_parquet
from fittest.runs.output.together import replaced_together
from fittest.runs.parts.engines import backend_of

if TYPE_CHECKING:
    from fittest.evo.protocols import Reward
    from fittest.evo.records import Request
    from fittest.fitness.judge.likelihood import VerdictModel
    from fittest.fitness.judge.pair import Pair
    from fittest.fitness.judge.verdict import Order, Verdicts
    from fittest.runs.judge.config import JudgeConfig
    from fittest.runs.output.held import Held
    from fittest.runs.output.journal import SqliteJournal
    from fittest.runs.sources.pair_file import PairTable


@dataclass(frozen=True)
class Judged:
    """Holds the verdicts on pairs, in the order of the pairs, and a description of the judge."""

    verdicts: Sequence[Verdicts]
    judge: str

    @classmethod
    def by_engine(cls, pairs: Sequence[Pair], config: JudgeConfig, journal: SqliteJournal) -> Self:
        """Returns greedy verdicts of the configured engine, or the majority of several votes."""
        engine, settings = backend_of(config.engine), config.judge
        # a single vote is the likeliest one; several greedy votes would all be the same
        sampling = settings.sampling.greedy if settings.votes == 1 else settings.sampling.sampling
        requests: list[Request] = verdict_requests(
            pairs, votes=settings.votes, seeds=SeedTree(settings.seed), sampling=sampling
        )
        replies = asked("judgments", requests, engine, journal, together=config.engine.samples_together)
        return cls(read_verdicts(replies, votes=settings.votes), f"{engine.fingerprint}, {settings.votes} votes")

    @classmethod
    def by_likelihood(cls, pairs: Sequence[Pair], model: VerdictModel, journal: SqliteJournal) -> Self:
        """Returns the likelier of the two verdicts on each pair; the model writes no reasoning before it."""
        known = JournalledVerdicts(model, journal)
        progress = ProgressLine("pairs judged by likelihood", len(pairs))
        verdicts = []
        for pair in pairs:
            verdicts.append(likelihood_verdicts(known, pair))
            progress.step()
        return cls(verdicts, f"likelihood:{model.fingerprint}")

    @classmethod
    def _by_reward(cls, pairs: Sequence[Pair], reward: Reward) -> Self:
        """Lets the answer with the higher reward win."""
        prompts = [pair.instruction for pair in pairs]
        scores = [
            scored(reward, prompts, answers)
            for answers in ([pair.response_a for pair in pairs], [pair.response_b for pair in pairs])
        ]
        return cls(reward_verdicts(*scores), f"reward:{reward.fingerprint}")

    @classmethod
    def recorded(cls, table: PairTable, path: Path) -> Self:
        """Returns the verdicts that a file of pairs records.

        Args:
            table: the pairs of the file.
            path: the file, for the message.

        Raises:
            FittestError: the file records no verdicts.
        """
        if table.recorded is None:
            raise FittestError(
                f"{path}: holds no recorded verdicts; expected columns recorded_NAME_verdict and"
                " recorded_NAME_verdict_swapped in every row, or leave --recorded out"
            )
        return cls(table.recorded, "recorded")

    @classmethod
    def as_asked(
        cls,
        pairs: Sequence[Pair],
        config: JudgeConfig,
        out: Path,
        *,
        likelihood: bool = False,
        reward: str | None = None,
        held: Held | None = None,
    ) -> Self:
        """Judges pairs as the command line says: by the engine's replies, its probabilities, or a reward.

        Args:
            pairs: the pairs; labels are not used.
            config: names the engine and its sampling.
            out: the folder whose journal keeps what the engine computes.
            likelihood: whether the engine's verdict probabilities decide.
            reward: the name of a reward that decides; None lets the engine judge.
            held: the files that must stay where they are while the journal is written.

        Raises:
            FittestError: the engine gives no probabilities, or the reward does not exist.
        """
        if reward is not None:
            return cls._by_reward(pairs, reward_named(reward))
        with journal_at(out / "journal.sqlite", held) as journal:
            if likelihood:
                return cls.by_likelihood(pairs, verdict_model(config.engine), journal)
            return cls.by_engine(pairs, config, journal)

    def write_verdicts(self, out: Path, table: PairTable) -> dict[str, Any]:
        """Writes verdicts.parquet and summary.json into a folder, and returns the content of summary.json."""
        found = self._summary(table)
        # accuracy that was measured before is that of other verdicts
        with replaced_together(out, without=["eval.json"]) as new:
            self._write(new, table, found)
        return found

    def write_evaluation(self, out: Path, table: PairTable, *, seed: int = 0) -> dict[str, Figures]:
        """Writes eval.json and the files of `write_verdicts` into a folder; returns the content of eval.json."""
        figures = accuracy_by_subset(table.pairs, self.verdicts, seed=seed)
        with replaced_together(out) as new:
            self._write(new, table, self._summary(table))
            write_json(new / "eval.json", figures)
        return figures

    def _write(self, out: Path, table: PairTable, summary: dict[str, Any]) -> None:
        write_parquet(out / "verdicts.parquet", _verdict_table(table.pairs, self.verdicts))
        write_json(out / "summary.json", summary)

    def _summary(self, table: PairTable) -> dict[str, Any]:
        won = Counter(verdict.winner for verdict in self.verdicts)
        said = [side for verdict in self.verdicts for side in (verdict.ab, verdict.ba)]
        # no winner means that the orders disagree or that one is without a verdict; the summary counts the two apart
        without = sum(None in (verdict.ab, verdict.ba) for verdict in self.verdicts)
        given = len(said) - said.count(None)
        return {
            "judge": self.judge,
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


class JournalledVerdicts:
    """Computes verdict log-odds and keeps each one at once, under the model's fingerprint.

    Args:
        model: computes the log-odds.
        journal: keeps them.
    """

    def __init__(self, model: VerdictModel, journal: SqliteJournal) -> None:
        self._model = model
        self._journal = journal

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the model."""
        return self._model.fingerprint

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """Returns the log-odds as `VerdictModel.log_odds` does; only unknown ones are computed."""
        name = f"verdict:wording={wording_id()}:{self.fingerprint}"
        subject = hashlib.sha256(f"{pair.pair_id}:{order}:{begun}".encode()).hexdigest()
        measurements = Measurements(self._journal, name, {subject: (pair, order, begun)})
        value = measurements.complete_now(self._measured)[subject]
        return math.nan if isinstance(value, Missing) else value

    def _measured(self, shown: Sequence[tuple[Pair, Order, str]]) -> list[float | Missing]:
        values = [self._model.log_odds(*one) for one in shown]
        return [Missing("longer than the model reads") if math.isnan(value) else value for value in values]


def scored(reward: Reward, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[float | Missing | None]:
    """Returns the reward of each response; the reward's `score` may be a plain function or a coroutine function."""
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
        # a column of nothing but nulls would have no type of its own
        schema_overrides={
            **dict.fromkeys(("label", "verdict_ab", "verdict_ba", "winner"), pl.String),
            "margin": pl.Float64,
        },
    )
