"""One session of a run: open or resume its folder, evolve, and leave whole tables behind."""

from __future__ import annotations

import asyncio
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from fittest.evo.errors import FittestError, NoSurvivorWarning
from fittest.evo.evolution import Evolution
from fittest.evo.protocols import Operator, Reward
from fittest.evo.visible import visible
from fittest.fitness.rewards.callable import RewardFunction
from fittest.runs.config import Config
from fittest.runs.output.folder import RunFolder
from fittest.runs.output.held import FolderLostError, Held
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.journal_rows import META
from fittest.runs.output.places import claimed
from fittest.runs.output.sealed import adopt_tables, changed_tables
from fittest.runs.output.store import Store
from fittest.runs.parts.assembly import Parts, assemble, parts_of
from fittest.runs.parts.engines import fingerprint_name
from fittest.runs.preflight.roles import Readiness, readiness
from fittest.runs.process import at_work
from fittest.runs.progress import watched

if TYPE_CHECKING:
    from deap import base

    from fittest.evo.evolution import BeforeGeneration
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Form, FreshDraw
    from fittest.evo.retest import Retested
    from fittest.evo.state import Generation
    from fittest.runs.progress import Progress

INTERRUPTED = 130
"""A run that is interrupted ends with this exit status."""

NO_SURVIVOR = 3
"""A run that ends without a survivor, as one without any reward does, ends with this exit status."""


@dataclass(frozen=True)
class Result:
    """Holds what a run left behind; `evolution` is None when nothing was left to do."""

    folder: Path
    summary: dict[str, Any]
    evolution: Evolution | None

    @property
    def survivors(self) -> pl.DataFrame:
        """Returns the prompts that passed rejection, as in survivors.parquet."""
        return pl.read_parquet(self.folder / "survivors.parquet")


def run(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    reward: Reward | RewardFunction | None = None,
    audit: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
    customise: Callable[[base.Toolbox], None] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Runs an evolution in a folder, or goes on with the one there; Ctrl-C stops it and keeps what is in flight.

    Args:
        config: the whole configuration.
        out: the run's folder.
        resume: go on where an earlier session ended; in a folder without a run, one is started.
        reward: replaces the configured one; a function `f(prompts, responses) -> list[float | None]` will do.
        audit: replaces the reward of [audit], likewise, which scores the answers and decides nothing.
        operators: more operators by the name they have in `operators.mix`.
        customise: registers what it likes in the toolbox before the run begins.
        progress: shows how far the run is.

    Returns:
        What the run left behind; a run that ends without a survivor returns as well, with a `NoSurvivorWarning`.

    Raises:
        FittestError: something that the user can mend is wrong; what the journal holds is kept.
    """
    if _inside_event_loop():
        raise FittestError("run() cannot wait inside a running event loop, such as a notebook's: await fittest.arun()")
    session = arun(
        config,
        out,
        resume=resume,
        reward=reward,
        audit=audit,
        operators=operators,
        customise=customise,
        progress=progress,
        stop_on_signals=True,
    )
    return asyncio.run(session)


async def arun(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    reward: Reward | RewardFunction | None = None,
    audit: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
    customise: Callable[[base.Toolbox], None] | None = None,
    progress: Progress | None = None,
    stop_on_signals: bool = False,
) -> Result:
    """Runs an evolution inside a running event loop; a task of it that is cancelled can be resumed.

    Args:
        config: as `run` takes it.
        out: as `run` takes it.
        resume: as `run` takes it.
        reward: as `run` takes it.
        audit: as `run` takes it.
        operators: as `run` takes it.
        customise: as `run` takes it.
        progress: as `run` takes it.
        stop_on_signals: whether Ctrl-C and SIGTERM stop the run; without it they are the event loop's owner's.

    Returns:
        What the run left behind.

    Raises:
        FittestError: something that the user can mend is wrong; what the journal holds is kept.
    """
    folder = RunFolder(Path(out))
    changed: list[Path] = []
    with claimed(folder.path, "run") as claim, at_work:
        folder.refuse_unless(resume)
        if folder.exists:
            folder.refuse_lost_journal()
            config = folder.as_begun(config)
            folder.refuse_other(config)
            finished = folder.finished(config)
            changed = changed_tables(folder.path)
            if finished and not changed:
                return _told(Result(folder.path, folder.summary() or {}, None))
        parts = parts_of(config, reward=reward, audit=audit, operators=operators)
        known = [*parts.pool.warnings, *parts.selection.warnings]
        if folder.exists:
            known += folder.resume(config, parts.fingerprints)
            # one that is not there may be one that a killed process had no time to put in its place
            damaged = [path.relative_to(folder.path) for path in changed if path.is_file()]
            known += [f"{path} was damaged, and is made anew" for path in damaged]
        ready = await readiness(config, parts.engines, parts.reward, parts.audit, form=_form_before(folder))
        if not folder.exists:
            # only now: a run that cannot begin shall not leave a folder that looks as if it had
            folder.begin(config, parts.fingerprints)
        if progress is not None:
            for line in ready.lines:
                progress.say(line)
        journal = SqliteJournal(folder.journal_file, held=claim.held)
        try:
            known += _told_damage(journal, progress)
            evolution, store = _made(config, folder, claim.held, journal, parts, ready, known, changed, customise)
            if stop_on_signals:
                _stop_on_signals(evolution)
            with _left_whole(store, evolution, claim.held):
                await watched(evolution, progress)
            if evolution.state.stop_reason not in (None, "generations"):
                journal.event("stopped", evolution.state.stop_reason)
            claim.held.check()
            store.catch_up(evolution)
            store.summarise(evolution)
            summary = folder.summary() or {}
        except FolderLostError:
            raise
        except FittestError as error:
            # that the folder is lost may be noticed first by what can no longer be written there
            claim.held.check()
            raise FittestError(f"{error}; go on with: fittest run {folder.path} --resume") from error
        finally:
            journal.close()
        return _told(Result(folder.path, summary, evolution))


@contextmanager
def _left_whole(store: Store, evolution: Evolution, held: Held) -> Iterator[None]:
    """Writes the tables that were put off if the block fails, as far as they can be written then."""
    try:
        yield
    except BaseException:
        # the error that ended the run is the one to tell
        with suppress(Exception):
            held.check()
            store.catch_up(evolution)
        raise


def _told(result: Result) -> Result:
    """Warns if nothing survived; a script that goes on to train would otherwise find out late."""
    if not result.summary.get("survivors"):
        warning = visible(f"{result.folder}: the run ended without a survivor")
        warnings.warn(warning, NoSurvivorWarning, stacklevel=2)
    return result


def _inside_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _told_damage(journal: SqliteJournal, progress: Progress | None) -> list[str]:
    """Returns what was damaged in the journal, which is told before anything is asked for again."""
    lines = journal.damage()
    if progress is not None:
        for line in lines:
            progress.say(f"warning: {line}")
    return lines


def _form_before(folder: RunFolder) -> Form | None:
    """Returns the form in which the run in a folder was given proposals; None if it has none yet.

    A form that has brought no proposal may be one that the server does not serve after all, and is found anew.
    """
    if not folder.journal_file.exists():
        return None
    try:
        with SqliteJournal(folder.journal_file, read_only=True) as journal:
            journal.refuse_damaged([META])
            # before forms were chosen, all proposals were completions
            found = (journal.meta("proposal_form") or "completion") if journal.spent()["proposal"].requests else None
    except FittestError:
        # damage is told, and taken out, when the journal is opened to be written
        return None
    return cast("Form | None", found)


def _made(
    config: Config,
    folder: RunFolder,
    held: Held,
    journal: SqliteJournal,
    parts: Parts,
    ready: Readiness,
    known: list[str],
    changed: list[Path],
    customise: Callable[[base.Toolbox], None] | None,
) -> tuple[Evolution, Store]:
    """Returns the evolution, and the store that writes its tables."""
    for role, engine in parts.engines.by_role.items():
        journal.record_meta(fingerprint_name(role), engine.backend.fingerprint)
    if config.run.generations:
        journal.record_meta("proposal_form", ready.form)
    adopt_tables(journal, folder.path)
    store = Store(
        folder=folder,
        config=config,
        journal=journal,
        engine=parts.engines.policy.backend.fingerprint,
        reward=parts.reward,
        audit=parts.audit,
        warnings=[*known, *ready.warnings],
        changed=changed,
    )

    # the store writes to paths, and would create a folder anew that was deleted
    def take(prompt: Prompt) -> None:
        held.look()
        store.take(prompt)

    def take_draw(prompt: Prompt, draw: FreshDraw) -> None:
        held.look()
        store.take_draw(prompt, draw)

    def take_again(retested: Retested) -> None:
        held.look()
        store.take_again(retested)

    def seal(evolution: Evolution, generation: Generation) -> None:
        held.check()
        store.seal(evolution, generation)

    evolution = assemble(
        config,
        parts,
        form=ready.form,
        journal=journal,
        seconds_before=journal.seconds(),
        customise=customise,
        before_generation=_before_generation(config, folder, parts, journal),
        on_evaluated=take,
        on_drawn=take_draw,
        on_retested=take_again,
        on_generation=seal,
    )
    return evolution, store


def _before_generation(
    config: Config, folder: RunFolder, parts: Parts, journal: SqliteJournal
) -> BeforeGeneration | None:
    """Returns what is done between generations: the judge is trained, if that is configured."""
    if not config.judge.retrain_every:
        return None
    # training needs heavy packages, which a run without it shall not miss
    from fittest.runs.judge.retrain import Teacher

    return Teacher(config=config, folder=folder.path, reward=parts.reward, journal=journal).before_generation


def _stop_on_signals(evolution: Evolution) -> None:
    """Makes the first Ctrl-C or SIGTERM keep what is in flight and then stop, and the second stop at once."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop() -> None:
        if received:
            os._exit(INTERRUPTED)
        received.append(1)
        evolution.feeder.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        # signal handlers can only be set in the main thread; elsewhere the caller looks after interruptions
        try:
            loop.add_signal_handler(number, stop)
        except (ValueError, RuntimeError):
            return
