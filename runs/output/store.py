"""Writes the tables of a run: sealed generations, survivors, pairs, thresholds, logbook and summary."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial, reduce
from operator import add
from typing import TYPE_CHECKING, Any

import polars as pl

from fittest.evo.evolution import Evolution
from fittest.evo.prompt import Prompt
from fittest.evo.retest import RETEST
from fittest.evo.state import Generation
from fittest.fitness.lengths import length_unit
from fittest.runs.models import find_model
from fittest.runs.output.accounting import IdleFractions, Spendings
from fittest.runs.output.alarms import alarms
from fittest.runs.output.atomic import write_json, write_parquet, write_text
from fittest.runs.output.audit_book import AUDIT_COLUMNS, AuditBook
from fittest.runs.output.breadth import breadth_of, cells_of
from fittest.runs.output.card import write_card
from fittest.runs.output.counts import CandidateCounts
from fittest.runs.output.export import pair_rows
from fittest.runs.output.pool_halves import PoolHalves
from fittest.runs.output.responses import ResponseBook, ResponseCounts
from fittest.runs.output.retested import NO_CUTS, retest_record
from fittest.runs.output.rows import GENERATION_SCHEMA, Answers, candidate_row, survivor_row
from fittest.runs.output.survivors import SURVIVOR_SCHEMA
from fittest.runs.output.thresholds import thresholds_record
from fittest.runs.output.warnings import audit_of, audit_warnings, run_warnings

if TYPE_CHECKING:
    from pathlib import Path

    from fittest.evo.protocols import Reward
    from fittest.evo.records import FreshDraw
    from fittest.evo.retest import Retested
    from fittest.runs.config import Config
    from fittest.runs.output.folder import RunFolder
    from fittest.runs.output.journal import SqliteJournal

_LOGBOOK_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "generation": pl.Int64, "tau_m1": pl.Float64, "tau_m2": pl.Float64, "tau_m3": pl.Float64, "evaluated": pl.Int64,
    "stopped": pl.Int64, "passed": pl.Int64, "pass_rate": pl.Float64, "pass_rate_pool": pl.Float64,
    "selection_intensity_m1": pl.Float64, "selection_intensity_m2": pl.Float64, "selection_intensity_m3": pl.Float64,
    "rollouts": pl.Int64, "tokens": pl.Int64, "diversity": pl.Float64, "mean_m1": pl.Float64, "mean_m2": pl.Float64,
    "mean_m3": pl.Float64, "mean_diversity": pl.Float64, "vendi_equal": pl.Float64, "vendi_equal_sd": pl.Float64,
    "vendi_equal_size": pl.Int64, "coverage": pl.Float64, "qd_score": pl.Float64,
    "rollouts_confirm": pl.Int64, "audited": pl.Int64,
}  # fmt: skip


_SMALL_RUN = 2000
"""A run of fewer candidates writes all its tables after each generation."""

_NEW_SHARE = 16
"""A larger one writes those that grow with it when the candidates that are new make this part of all: each candidate
then costs no more beside many than beside few."""


class Store:
    """Writes the tables of a run after each generation, so that a reader always finds a whole set.

    Survivors, pairs and card, which grow with the run, are one set: they are written anew when enough has come, and
    `catch_up` writes them at the end. Until then the summary says of which generation they are.

    Args:
        folder: the run's folder.
        config: the run's configuration; its settings are recorded with the thresholds.
        journal: its event log gives the idle fraction.
        engine: the fingerprint of the engine that answers.
        reward: its fingerprint is recorded with the thresholds; it may change when a judge is trained.
        audit: the reward that decides nothing; None without one.
        warnings: the warnings from before the run began; those of the run are added.
        changed: the tables that are not as an earlier session wrote them; they are made anew.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        config: Config,
        journal: SqliteJournal,
        engine: str,
        reward: Reward,
        audit: Reward | None = None,
        warnings: Sequence[str],
        changed: Collection[Path] = (),
    ) -> None:
        self._folder = folder
        self._config = config
        self._journal = journal
        self._reward = reward
        self._warnings = list(warnings)
        self._survivors: list[dict[str, Any]] = []
        confidence = config.selection.race_confidence
        # races were not exact: a table that is copied out of the folder must still say so
        self._metadata = None if confidence is None else {"race_confidence": str(confidence)}
        self._changed = frozenset(changed)
        self._sealed_before = max(
            (int(path.stem) + 1 for path in folder.generations.glob("[0-9]*.parquet")), default=0
        )
        round_size, n = config.selection.race_round, config.engine.sampling.n
        audit_id = None if audit is None else audit.fingerprint
        self._audit = AuditBook(early=round_size if 0 < round_size < n else n, audit_id=audit_id)
        self._answers: dict[tuple[int, int], Answers] = {}
        self._counts: dict[int, ResponseCounts] = {}
        # a judge that is trained between generations changes what is known of prompts, and charges them
        self._settled = not config.judge.retrain_every
        self._candidates = CandidateCounts()
        self._with_pair = 0
        self._population: list[Prompt] = []
        self._generation = self._written_generation = -1
        self._sealed_candidates = self._written_candidates = 0
        self._idle = IdleFractions(journal)
        self._spendings = Spendings(config.price_list, self._idle, anew=not self._settled)
        unit = length_unit(config.selection.length_unit, find_model)
        self._pool_halves = PoolHalves(config, unit)
        self._responses = ResponseBook(
            folder.responses,
            engine=engine,
            length_unit=unit,
            sealed=self._sealed_responses(),
            metadata=self._metadata,
            record=journal.record_sealed,
            audited=audit is not None,
        )

    def _sealed_responses(self) -> list[int]:
        """Returns the generations whose table of responses an earlier session has written."""
        if self._journal.damage():
            # a reply that was lost and asked for again may be another one
            return []
        # a run of an early fittest has none; they are written when it is resumed
        paths = [(n, self._folder.responses / f"{n:04d}.parquet") for n in range(self._sealed_before)]
        return [n for n, path in paths if path.exists() and path not in self._changed]

    def take(self, prompt: Prompt) -> None:
        """Puts the responses of an evaluated prompt on record, and drops them from memory.

        They stay in memory if a judge is trained between generations, since it judges them again.
        """
        metrics, responses = prompt.metrics, prompt.responses
        self._responses.take(prompt, responses, reward_id=self._reward.fingerprint)
        self._audit.take(prompt, self._reward.fingerprint)
        self._pool_halves.take(prompt)
        self._counts.setdefault(prompt.birth.generation, ResponseCounts()).count(responses)
        best_and_worst = (metrics.chosen, metrics.rejected) if metrics and responses else ()
        self._answers[prompt.birth.generation, prompt.birth.slot] = Answers(
            scored=sum(response.reward is not None for response in responses),
            pair=tuple(responses[place].sample for place in best_and_worst),
        )
        if not self._config.judge.retrain_every:
            prompt.responses = []

    def take_draw(self, prompt: Prompt, draw: FreshDraw) -> None:
        """Puts the responses of a fresh draw on record, and drops them from memory as `take` does."""
        self._responses.take(prompt, draw.responses, reward_id=self._reward.fingerprint)
        self._counts.setdefault(prompt.birth.generation, ResponseCounts()).count(draw.responses)
        if not self._config.judge.retrain_every:
            draw.responses = []

    def take_again(self, retested: Retested) -> None:
        """Puts the responses of a survivor that was drawn again on record, and drops them from memory."""
        draw = retested.draw
        self._responses.take(
            retested.prompt, draw.responses, reward_id=self._reward.fingerprint, table=RETEST, slot=retested.place
        )
        draw.responses = []

    def seal(self, evolution: Evolution, generation: Generation) -> None:
        """Writes one finished generation, and brings the tables of the whole run up to date.

        While a resumed run repeats generations that are sealed already, the tables of the whole run are left alone,
        since they hold more than it has reached.

        Args:
            evolution: the run.
            generation: the generation that has just been finished.
        """
        self._responses.seal(generation.number)
        self._audit.seal(generation)
        # a prompt that a gate turned away was never evaluated
        answers = [self._answers.pop((generation.number, p.birth.slot), Answers()) for p in generation.candidates]
        candidates = list(zip(generation.candidates, answers, strict=True))
        rows = [candidate_row(prompt, known) for prompt, known in candidates]
        frame = pl.DataFrame(rows, schema=GENERATION_SCHEMA)
        path = self._folder.generations / f"{generation.number:04d}.parquet"
        self._tell_if_other(path, frame)
        self._write(path, frame)
        survived = [(prompt, known) for prompt, known in candidates if prompt.survived]
        found = self._survivor_rows(generation.number, survived)
        self._survivors += found
        self._sealed_candidates += len(rows)
        self._with_pair += sum(row["chosen"] is not None and row["chosen"] != row["rejected"] for row in found)
        if not self._caught_up(evolution):
            return
        # it is of the survivors that there were when an earlier session ended
        (self._folder.responses / f"{RETEST}.parquet").unlink(missing_ok=True)
        self._generation, self._population = generation.number, list(evolution.state.population)
        if written := self._is_time_to_write():
            self._write_survivors()
        columns = _LOGBOOK_SCHEMA if self._audit.audit_id is None else _LOGBOOK_SCHEMA | AUDIT_COLUMNS
        columns = {**columns, **dict.fromkeys(evolution.breeder.shares.figures, pl.Float64)}
        logbook = pl.DataFrame(self._audit.rows(evolution.logbook), schema=columns)
        self._write(self._folder.logbook_file, logbook)
        record = thresholds_record(
            generation.thresholds,
            n=self._config.engine.sampling.n,
            length_unit=self._config.selection.length_unit,
            reward_id=self._reward.fingerprint,
            pairing=self._config.selection.pairing,
            race_confidence=self._config.selection.race_confidence,
        )
        write_json(self._folder.thresholds_file, record)
        self.summarise(evolution)
        if written:
            write_card(self._folder.path)

    def catch_up(self, evolution: Evolution) -> None:
        """Writes what was put off, so that all tables are of the last finished generation, when the run ends."""
        if evolution.state.retested:
            self._responses.seal(RETEST)
        if self._behind():
            self._write_survivors()
            write_card(self._folder.path)
            self.summarise(evolution)

    def _is_time_to_write(self) -> bool:
        """Tells whether so many candidates have come that the tables which grow with the run are written anew."""
        new = self._sealed_candidates - self._written_candidates
        return self._sealed_candidates < _SMALL_RUN or new * _NEW_SHARE >= self._sealed_candidates

    def _behind(self) -> dict[str, int]:
        """Returns of which generation survivors, pairs and card are, if that is not the last one."""
        behind = self._written_generation < self._generation
        return {"survivors_as_of_generation": self._written_generation} if behind else {}

    def _write_survivors(self) -> None:
        """Writes the survivors and their pairs as of the last finished generation."""
        # a survivor's in_population changes with every generation, so the whole table is written again
        survivors = self._survivors_frame()
        self._write(self._folder.survivors_file, survivors)
        pairs = pair_rows(survivors, self._config.engine.system)
        write_text(self._folder.pairs_file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in pairs))
        self._written_generation, self._written_candidates = self._generation, self._sealed_candidates

    def _write(self, path: Path, frame: pl.DataFrame) -> None:
        """Writes a table, whose hash is in the journal before the file gets its name."""
        sealing = partial(self._journal.record_sealed, path.relative_to(self._folder.path).as_posix())
        write_parquet(path, frame, metadata=self._metadata, sealing=sealing)

    def _tell_if_other(self, path: Path, frame: pl.DataFrame) -> None:
        """Warns if a generation comes out otherwise than it was sealed, which no loss that was told explains."""
        if not path.exists() or path in self._changed:
            return
        before = pl.read_parquet(path, glob=False)
        columns = [name for name in before.columns if name in frame.columns]
        if not before.select(columns).equals(frame.select(columns)):
            line = f"{path.parent.name}/{path.name} came out otherwise than an earlier session had sealed it"
            self._journal.event("damaged", line)
            self._warnings.append(line)

    def summarise(self, evolution: Evolution) -> None:
        """Writes summary.json and spending.json; of a run that repeats old generations, only the stop reason."""
        if self._caught_up(evolution):
            write_json(self._folder.summary_file, self._summary(evolution))
            write_json(self._folder.spending_file, self._spendings.report(evolution))
        else:
            self._folder.set_stop_reason(evolution.state.stop_reason)

    def _caught_up(self, evolution: Evolution) -> bool:
        """Tells whether a resumed run has reached the generations that earlier sessions sealed."""
        return len(evolution.state.finished) >= self._sealed_before

    def _survivor_rows(self, generation: int, survived: Sequence[tuple[Prompt, Answers]]) -> list[dict[str, Any]]:
        """Returns the rows of a generation's survivors, with their best and worst responses from the sealed table."""
        found = self._responses.read(
            generation, {(prompt.id, sample) for prompt, known in survived for sample in known.pair}
        )
        rows = []
        for prompt, known in survived:
            chosen, rejected = (found[prompt.id, sample] for sample in known.pair) if known.pair else (None, None)
            rows.append(survivor_row(prompt, chosen=chosen, rejected=rejected))
        return rows

    def _survivors_frame(self) -> pl.DataFrame:
        population = {prompt.id for prompt in self._population}
        rows = [{**row, "in_population": row["prompt_id"] in population} for row in self._survivors]
        return pl.DataFrame(rows, schema=SURVIVOR_SCHEMA)

    def _summary(self, evolution: Evolution) -> dict[str, Any]:
        state, traffic = evolution.state, evolution.feeder.traffic
        if not self._settled:
            self._candidates = CandidateCounts()
        counts = self._candidates
        counts.follow(state.finished)
        finished = [self._counts.get(generation.number, ResponseCounts()) for generation in state.finished]
        responses = reduce(add, finished, ResponseCounts())
        confirming = state.confirming["rollout"].requests
        again = sum(spent["rollout"].requests for (_, on), spent in state.other_spending.items() if on == RETEST)
        rollouts = traffic["rollout"].requests - confirming - again
        saved = state.sampled_in_all * self._config.engine.sampling.n - state.drawn_in_all
        confidence = self._config.selection.race_confidence
        race = {} if confidence is None else {"race": audit_of(counts.race, confidence)}
        noted = run_warnings(evolution, responses, scored=counts.scored, of_generations=counts.warnings)
        return {
            "seed_prompts": len(evolution.pool),
            "survivors": len(self._survivors),
            "pairs_skipped": len(self._survivors) - self._with_pair,
            "generations": max(0, len(state.finished) - 1),
            "candidates": counts.candidates,
            "gate_rejections": dict(sorted(counts.gated.items())),
            "rollouts": rollouts,
            "rollouts_full": rollouts + saved,
            "rollouts_confirm": confirming,
            "rollouts_retest": again,
            "prompt_tokens": traffic.total.prompt_tokens,
            "completion_tokens": traffic.total.completion_tokens,
            "wall_seconds": round(evolution.feeder.seconds, 3),
            "engine_idle_fraction": self._idle.of(evolution.feeder.lanes[0]),
            "stop_reason": state.stop_reason,
            "failures": dict(sorted(responses.missing.items())),
            **retest_record(state.retested),
            **self._why_no_retest(evolution),
            "repeatability": self._pool_halves.record(state.finished[0].thresholds) if state.finished else None,
            "breadth": breadth_of(evolution.logbook),
            "archive": cells_of(evolution, self._config.archive.kind),
            **race,
            **self._audit.summary,
            **self._behind(),
            "warnings": self._warnings + noted + audit_warnings(race) + alarms(self._audit, evolution.logbook),
        }

    def _why_no_retest(self, evolution: Evolution) -> dict[str, str]:
        """Says why nobody is drawn again though the configuration asks for it."""
        section = self._config.selection
        if not section.retest or evolution.settings.retest:
            return {}
        by_rank = section.BY_RANK or self._config.run.arm == "best-of-n"
        return {"retest_note": NO_CUTS if by_rank else "toolbox.evaluate is not the run's own"}
