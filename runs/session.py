"""One session of a run: open or resume its folder, evolve, and leave whole tables behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from threadpoolctl import threadpool_limits

from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution
from fittest.evo.protocols import Operator, Reward
from fittest.fitness.rewards.callable import RewardFunction
from fittest.runs.config import Config
from fittest.runs.garbage import collecting_rarely
from fittest.runs.output.folder import RunFolder
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.store import Store
from fittest.runs.parts.assembly import Parts, assemble, parts_of
from fittest.runs.progress import watched

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.evolution import BeforeGeneration
    from fittest.runs.progress import Progress

INTERRUPTED = 130
"""A run that is interrupted ends with this exit status."""


@dataclass(frozen=True)
class Result:
    """Holds what a run left behind; `evolution` is None when nothing was left to do."""

    folder: Path
    summary: dict[str, Any]
    evolution: Evolution | None

    @property
    def survivors(self) -> pl.DataFrame:
        """Returns every prompt that passed rejection, as it stands in survivors.parquet."""
        return pl.read_parquet(self.folder / "survivors.parquet")


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    reward: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
    customise: Callable[[base.Toolbox], None] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Runs an evolution in a folder, or goes on with it.

    Args:
        config: the whole configuration.
        out: the run's folder.
        resume: whether to go on where an earlier session ended; a folder without a run is simply started.
        reward: replaces the configured one; a function `f(prompts, responses) -> list[float | None]` will do.
        operators: more operators by the name they have in `operators.mix`.
        customise: registers what it likes in the toolbox before the run begins.
        progress: shows how far the run is.

    Raises:
        FittestError: something that the user can mend is wrong; what the journal holds is kept.
    """
    folder = RunFolder(Path(out))
    folder.refuse_unless(resume)
    # the threads of numpy's BLAS spin on the cores that the engine, or torch, has better use for
    with folder.locked(), threadpool_limits(limits=1, user_api="blas"), collecting_rarely():
        if folder.exists:
            folder.refuse_other(config)
            if folder.finished(config):
                return Result(folder.path, folder.summary() or {}, None)
        parts = parts_of(config, reward=reward, operators=operators)
        warnings = [*parts.pool.warnings, *parts.selection.warnings]
        if folder.exists:
            warnings += folder.resume(config, parts.fingerprints)
        else:
            folder.begin(config, parts.fingerprints)
        journal = SqliteJournal(folder.journal_file)
        try:
            evolution = _evolve(config, folder, journal, parts, warnings, customise, progress)
            summary = folder.summary() or {}
        except FittestError as error:
            raise FittestError(f"{error}; go on with: fittest run {folder.path} --resume") from error
        finally:
            journal.close()
        return Result(folder.path, summary, evolution)


def _evolve(
    config: Config,
    folder: RunFolder,
    journal: SqliteJournal,
    parts: Parts,
    warnings: list[str],
    customise: Callable[[base.Toolbox], None] | None,
    progress: Progress | None,
) -> Evolution:
    journal.record_meta("fingerprint", parts.backend.fingerprint)
    store = Store(folder=folder, config=config, journal=journal, reward=parts.reward, warnings=warnings)
    evolution = assemble(
        config,
        parts,
        journal=journal,
        seconds_before=journal.seconds(),
        customise=customise,
        before_generation=_before_generation(config, folder, parts, journal),
        on_generation=store.seal,
    )
    asyncio.run(_under_signals(evolution, progress))
    if evolution.state.stop_reason not in (None, "generations"):
        journal.event("stopped", evolution.state.stop_reason)
    store.summarise(evolution)
    return evolution


def _before_generation(
    config: Config, folder: RunFolder, parts: Parts, journal: SqliteJournal
) -> BeforeGeneration | None:
    """Returns what is done between generations: the judge is trained, if that is configured."""
    if not config.judge.retrain_every:
        return None
    # training needs heavy packages, which a run without it shall not miss
    from fittest.runs.judge.retrain import Teacher

    return Teacher(config=config, folder=folder.path, reward=parts.reward, journal=journal).before_generation


async def _under_signals(evolution: Evolution, progress: Progress | None) -> None:
    """Runs an evolution that signals can end."""
    _end_on_signals(evolution)
    await watched(evolution, progress)


def _end_on_signals(evolution: Evolution) -> None:
    """Ends a run by Ctrl-C or SIGTERM: at first what is in flight is kept, the second time nothing is waited for."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def end() -> None:
        if received:
            os._exit(INTERRUPTED)
        received.append(1)
        evolution.feeder.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        # signal handlers can only be set in the main thread; elsewhere the caller looks after interruptions
        try:
            loop.add_signal_handler(number, end)
        except (ValueError, RuntimeError):
            return
