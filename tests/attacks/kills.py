"""Kills commands at chosen moments: before each of their writes, one after the other, and at random times.

A process that has imported everything forks a victim for each kill. The victim counts what it does to the files of its
folder (opening to write, renaming, removing, flushing, committing), and kills itself before the one that it was given.
Between two such moments nothing on the disk changes but the content of unfinished files, so all of them together are
all that a kill can leave behind. What SQLite does inside a commit is met by the kills at random times.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEVER = 1 << 60

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Audit events that change a folder; `os.replace` is a rename, and opening has an event of its own."""

FILLING = {"os.mkdir", "os.symlink"}

REFUSED = 2

AT_ONCE = 2
"""How many victims are alive at the same time."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.attacks.kills_preloaded"])


@dataclass(frozen=True)
class Scene:
    """A command, and what stands in its folder before.

    Attributes:
        name: of the command.
        prepare: makes the folder with the results of an earlier command.
        work: the command; called again after a kill, it completes.
        results: the names of its results, in the folder that is given to it.
        same: whether it gives the same results each time; a steady-state run follows the clock.
        whole: whether all results are replaced together; a run adds them generation by generation.
    """

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    results: tuple[str, ...] = ()
    same: bool = True
    whole: bool = True


@dataclass(frozen=True)
class Moment:
    """When a victim dies: before a write, counted from 0, or after some seconds.

    Attributes:
        write: the number of the write.
        seconds: the time, if it dies by the clock.
        full: whether it does not die at all, but its disk is full from the write on.
    """

    write: int = NEVER
    seconds: float | None = None
    full: bool = False


class _Victim:
    """Counts writes under a folder, and dies before the one it was given."""

    def __init__(self, folder: Path, moment: Moment) -> None:
        self._folder = f"{folder}/"
        self._left = moment.write
        self._full = moment.full
        self.count = 0
        if moment.seconds is not None:
            threading.Timer(moment.seconds, self._die).start()
        sys.addaudithook(self._heard)
        fsync, connect = os.fsync, sqlite3.connect

        def counted_fsync(descriptor: int) -> None:
            self.step()
            fsync(descriptor)

        victim = self

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                if self.in_transaction:
                    try:
                        victim.step()
                    except OSError:
                        raise sqlite3.OperationalError("database or disk is full") from None
                super().commit()

        os.fsync = counted_fsync
        sqlite3.connect = lambda *args, **named: connect(*args, **{"factory": Connection, **named})  # type: ignore[assignment]

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and str(path).startswith(self._folder):
                self.step()
        # a file can be renamed and removed on a disk that is full
        elif event in (WRITES & FILLING if self._full else WRITES) and str(args[0]).startswith(self._folder):
            self.step()

    def step(self) -> None:
        if self.count >= self._left and self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.count >= self._left:
            self._die()
        self.count += 1

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def perform(name: str, folder: Path, moment: Moment | None) -> None:
    """What a victim does; without a moment it is the command that follows, and its writes are counted."""
    from fittest.evo.errors import FittestError
    from tests.attacks.kill_scenes import SCENES

    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    scene = SCENES[name]
    if moment is None:
        scene.work(folder)
        return
    victim, began = _Victim(folder, moment), time.monotonic()
    try:
        scene.work(folder)
    except FittestError as error:
        (folder.parent / f"{folder.name}.said").write_text(str(error))
        os._exit(REFUSED)
    except Exception:
        (folder.parent / f"{folder.name}.said").write_text(traceback.format_exc())
        raise
    (folder.parent / f"{folder.name}.count").write_text(f"{victim.count} {time.monotonic() - began}")
    # a timer that is still running would keep the process
    os._exit(0)


def in_children(name: str, *victims: tuple[Path, Moment | None]) -> list[int]:
    """Runs a command in several processes at once, and returns their exit statuses; that of a killed one is -9.

    All are started and awaited by one thread: two of them would take the statuses away from each other.
    """
    processes = [context.Process(target=perform, args=(name, folder, moment)) for folder, moment in victims]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode is not None, f"{name} hangs"
    return [process.exitcode or 0 for process in processes]


def writes_of(scene: Scene, place: Path, moment: Moment = Moment()) -> tuple[int, float]:
    """Counts the writes of a command that nobody kills, and the seconds that it takes."""
    folder = fresh(scene, place / "counted")
    assert in_children(scene.name, (folder, moment)) == [0]
    count, seconds = (place / "counted.count").read_text().split()
    return int(count), float(seconds)


def fresh(scene: Scene, folder: Path) -> Path:
    """Copies what stands in the folder before the command; it is made once."""
    before = folder.parent / "before"
    if not before.is_dir():
        before.mkdir(parents=True)
        scene.prepare(before)
    shutil.copytree(before, folder)
    return folder


def moments_of(kills: int, writes: int, seconds: float, *, seed: int = 0) -> list[Moment]:
    """Chooses moments: four fifths before writes, each of them once before any comes twice; the rest by the clock."""
    rng = random.Random(seed)
    by_clock = kills // 5
    numbers = [number for _ in range(kills // writes + 1) for number in rng.sample(range(writes), writes)]
    return [
        *(Moment(number) for number in sorted(numbers[: kills - by_clock])),
        *(Moment(seconds=rng.uniform(0.0, seconds)) for _ in range(by_clock)),
    ]


def results_of(scene: Scene, folder: Path) -> dict[str, str]:
    """Returns a digest of each result that is there; of a model, of its files."""
    found = {}
    for name in scene.results:
        for path in sorted(folder.glob(name)):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not path.name.startswith("."):
                    found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Returns what only an unfinished command has."""
    return sorted(
        str(path.relative_to(folder))
        for pattern in (".fittest-*", ".responses-*", "*.part", "trainer", "tmp*")
        for path in folder.rglob(pattern)
    )


def unreadable(folder: Path) -> list[str]:
    """Returns the files that are not whole."""
    import polars as pl

    broken = []
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
            continue
        try:
            if file.suffix == ".parquet":
                pl.read_parquet(file)
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".jsonl":
                for line in file.read_text(encoding="utf-8").splitlines():
                    json.loads(line)
        except Exception as error:
            broken.append(f"{file.name}: {error}")
    return broken


def asked_again(folder: Path) -> int:
    """Counts requests that were sent although an earlier session had their reply."""
    count = 0
    for journal in folder.rglob("journal.sqlite"):
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
            query = (
                "SELECT count(*) FROM issued JOIN replies USING (key, sample) WHERE issued.session > replies.session"
            )
            count += int(database.execute(query).fetchone()[0])
    return count


@dataclass(frozen=True)
class Outcome:
    """What one kill left, and what the next command made of it.

    Attributes:
        moment: when it should come.
        killed: whether it came.
        over: whether it could not come any more. A run whose replies arrive in other groups has fewer commits than
            the one whose writes were counted.
        faults: what was wrong afterwards.
    """

    moment: Moment
    killed: bool
    over: bool
    faults: tuple[str, ...]


def attacked(scene: Scene, place: Path, kills: int, *, seed: int = 0) -> Iterator[Outcome]:
    """Kills a command again and again, each time in a folder of its own, and looks at what is left.

    Args:
        scene: the command.
        place: an empty folder.
        kills: how many.
        seed: chooses the moments.

    Yields:
        What each kill did.
    """
    old_folder = fresh(scene, place / "old")
    old = results_of(scene, old_folder)
    writes, seconds = writes_of(scene, place)
    new = results_of(scene, place / "counted")
    assert new, f"{scene.name}: no results in {sorted(path.name for path in (place / 'counted').rglob('*'))}"
    assert not scene.same or not old or old != new

    moments = moments_of(kills, writes, seconds, seed=seed)
    for first in range(0, kills, AT_ONCE):
        some = moments[first : first + AT_ONCE]
        folders = [fresh(scene, place / f"kill-{first + number}") for number in range(len(some))]
        statuses = in_children(scene.name, *zip(folders, some, strict=True))
        found = _faults(scene, folders, old, new)
        for folder, moment, status, faults in zip(folders, some, statuses, found, strict=True):
            yield Outcome(moment, status == -signal.SIGKILL, _was_over(folder, moment), tuple(faults))
        for folder in folders:
            shutil.rmtree(folder)


def full_disks(scene: Scene, place: Path, times: int, *, seed: int = 0) -> Iterator[Outcome]:
    """Lets the disk be full from some moment on; the command must say so in one line, and leave the old files.

    Args:
        scene: the command.
        place: an empty folder.
        times: how often.
        seed: chooses the moments.

    Yields:
        What each time did; the command is `killed` if it ended with status 2.
    """
    old = results_of(scene, fresh(scene, place / "old"))
    writes, _ = writes_of(scene, place, Moment(full=True))
    new = results_of(scene, place / "counted")
    for number, write in enumerate(sorted(random.Random(seed).sample(range(writes), min(times, writes)))):
        folder = fresh(scene, place / f"full-{number}")
        (status,) = in_children(scene.name, (folder, Moment(write, full=True)))
        said = place / f"full-{number}.said"
        faults = (
            [f"ended with {status}: {said.read_text() if said.exists() else None}"]
            if status not in (0, REFUSED)
            else []
        )
        if status == REFUSED and (
            len(said.read_text().splitlines()) != 1 or "full" not in said.read_text().replace("No space left", "full")
        ):
            faults.append(f"said {said.read_text()!r}")
        (more,) = _faults(scene, [folder], old, new)
        over = _was_over(folder, Moment(write))
        yield Outcome(Moment(write, full=True), status == REFUSED, over, (*faults, *more))
        shutil.rmtree(folder)


def _was_over(folder: Path, moment: Moment) -> bool:
    """Tells whether a victim had ended before its moment."""
    count = folder.parent / f"{folder.name}.count"
    return count.is_file() and (moment.seconds is not None or int(count.read_text().split()[0]) <= moment.write)


def _faults(scene: Scene, folders: Sequence[Path], old: dict[str, str], new: dict[str, str]) -> list[list[str]]:
    """Looks at what was left in each folder, lets the following command complete it, and looks again."""
    before = [list(_before(scene, folder, old, new)) for folder in folders]
    statuses = in_children(scene.name, *((folder, None) for folder in folders))
    after = [list(_after(scene, *one, new)) for one in zip(folders, statuses, strict=True)]
    return [[*one, *other] for one, other in zip(before, after, strict=True)]


def _before(scene: Scene, folder: Path, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    from fittest.runs.output.together import settle

    yield from unreadable(folder)
    for inner in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        settle(inner)  # as every reader of ours does first
    left = results_of(scene, folder)
    if scene.whole and left not in (old, new):
        yield f"a mix: {sorted(set(left.items()) ^ set(new.items()))}"


def _after(scene: Scene, folder: Path, status: int, new: dict[str, str]) -> Iterator[str]:
    if status:
        yield f"the following command ended with {status}"
        return
    if scene.same and results_of(scene, folder) != new:
        yield f"other results: {sorted(set(results_of(scene, folder).items()) ^ set(new.items()))}"
    if again := asked_again(folder):
        yield f"{again} requests were asked again"
    if leftovers(folder):
        yield f"left over: {leftovers(folder)}"
