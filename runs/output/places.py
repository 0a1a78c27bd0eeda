"""Decides where a command may write, and holds a folder for it: what belongs to another command is left alone.

A folder belongs to the command that made it. The command's name stands in the file `.lock`; folders of earlier
versions are known by a file that only one command writes. A command writes a folder that is new, or its own. It leaves
alone the folders of others, and a folder in which somebody else's file has a name that it would write.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.output.held import Held
from fittest.runs.output.together import make_folders, remove_empty, settle, sweep

_LOCK = ".lock"
_JOURNAL = "journal.sqlite"

_FILES = {
    "run": (
        "run.toml", "generations", "responses", "survivors.parquet", "pairs.jsonl", "thresholds.json",
        "logbook.parquet", "summary.json", "spending.json", "card.md", "reference.sqlite",
    ),
    "judge train": (
        "settings.json", "training.json", "adapter", "model", "adapter.gguf", "agreement.json", "judgments.parquet",
        "train.jsonl", "preferences.jsonl", "summary.json",
    ),
    "judge annotate": ("agreement.json", "judgments.parquet", "train.jsonl", "preferences.jsonl"),
    "judge pairs": ("pairs.jsonl", "held_out.jsonl", "rejected.jsonl", "report.md", "summary.json"),
    "judge select": ("labels.parquet", "selected.jsonl", "summary.json"),
    "judge eval": ("verdicts.parquet", "eval.json", "summary.json"),
    "ablate": ("ablation.parquet", "ablation.md", "ablation.html", "summary.json"),
    "filter": ("survivors.parquet", "rejected.parquet", "thresholds.json", "summary.json", "card.md"),
}  # fmt: skip
"""What each command writes into its folder, beside a journal; `judge infer` and `judge eval` share a folder."""

_SIGNS = (
    ("run", "run.toml", b"[fittest]"),
    ("judge train", "settings.json", b'"wording"'),
    ("judge train", "training.json", b'"held_out_accuracy"'),
    ("judge annotate", "agreement.json", b'"agreement"'),
    ("judge pairs", "summary.json", b'"held_out": '),
    ("judge select", "summary.json", b'"left_out"'),
    ("judge eval", "summary.json", b'"b_wins"'),
    ("judge eval", "eval.json", b'"accuracy"'),
    ("ablate", "ablation.md", b"| filter |"),
    ("filter", "summary.json", b'"scored_responses"'),
)
"""By which file, and which words in it, a folder of an earlier version is known; the first that is there decides.

The name of a table alone is no sign: many a folder has a labels.parquet that none of our commands has made.
"""

_MOST_TRIES = 20


@dataclass(frozen=True)
class Claim:
    """Holds a folder for this process.

    Attributes:
        path: the folder.
        held: finds out when the folder, or a file in it that is open, is no longer there.
    """

    path: Path
    held: Held


@contextmanager
def claimed(path: Path, command: str, *, inputs: Iterable[Path] = ()) -> Iterator[Claim]:
    """Creates a folder for a command and locks it against other processes; the lock ends with this one, killed or not.

    What killed processes left in the folder is moved into place or removed. If it is empty at the end, it is removed.

    Args:
        path: the folder.
        command: the verb, such as "filter" or "judge pairs".
        inputs: files that the command reads; none of them may be one that it writes.

    Raises:
        FittestError: the folder is another command's, another process holds it, or it cannot be written.
    """
    inputs = list(inputs)
    with ExitStack() as until_the_end:
        with _in_one_line(path):
            _refuse_folder(path, command, inputs)
            lock = until_the_end.enter_context(_locked(path))
            # once more, since another command may have begun it in between
            _refuse_folder(path, command, inputs)
            if not _mark(path):
                lock.write(f"{command}\n")
                lock.flush()
            for folder in (path, *(inner for inner in path.iterdir() if inner.is_dir())):
                settle(folder)
                sweep(folder)
            held = Held()
            held.keep(path / _LOCK)
        yield Claim(path, held)


def refuse_files(paths: Iterable[Path], *, inputs: Iterable[Path]) -> None:
    """Stops a command that writes single files from replacing what it reads, or a part of a folder of ours.

    Args:
        paths: the files; one that is in no folder of ours may exist, and is then replaced.
        inputs: files and folders that the command reads.

    Raises:
        FittestError: one of the files may not be written; the message says why.
    """
    read = {_identity(file) for path in inputs for file in (path, *path.rglob("*"))} - {None}
    for path in paths:
        with _in_one_line(path):
            _refuse_unless(path, a_folder=False)
            _refuse_inside(path)
            if _identity(path) in read:
                raise FittestError(f"{path}: is read by this command; choose another --out")


def owner_of(folder: Path) -> str | None:
    """Returns the command that a folder belongs to, or None if it is none of ours."""
    if (mark := _mark(folder)) in _FILES:
        return mark
    for command, name, words in _SIGNS:
        file = folder / name
        if file.is_file() and words in file.read_bytes():
            return command
    return None


def _refuse_folder(path: Path, command: str, inputs: Iterable[Path]) -> None:
    _refuse_unless(path, a_folder=True)
    owner, own = owner_of(path), _FILES[command]
    if _mark(path) not in ("", *_FILES):
        raise FittestError(f"{path}: holds a {_LOCK} that fittest did not write; choose another --out")
    if owner not in (None, command):
        raise FittestError(f"{path}: is the folder of `fittest {owner}`; choose another --out")
    if owner is None:
        if path.resolve() == Path.cwd():
            raise FittestError(f"{path}: is the working folder; give the results a folder of their own as --out")
        # a configuration that is not yet of a run is somebody's, whatever is to be written beside it
        for name in ("run.toml", *own):
            if os.path.lexists(path / name):
                raise FittestError(f"{path}: holds a {name} that is not of `fittest {command}`; choose another --out")
    _refuse_inside(path)
    for read in inputs:
        if read.name in own and _identity(read.parent) == _identity(path) is not None:
            raise FittestError(f"{read}: is read by this command, which would replace it; choose another --out")


def _refuse_unless(path: Path, *, a_folder: bool) -> None:
    """Stops at a file where a folder belongs, the other way round, and where neither can be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    if path.is_dir() != a_folder:
        found, wanted = ("file", "folder") if a_folder else ("folder", "file")
        raise FittestError(f"{path}: is a {found}; --out names a {wanted}")
    if not a_folder and not path.is_file() and not path.is_symlink():
        raise FittestError(f"{path}: is a device or a pipe; --out names a file")


def _refuse_inside(path: Path) -> None:
    """Stops at what is a part of a folder of ours, or would become one."""
    inner = path.resolve()
    for outer in inner.parents:
        owner = owner_of(outer)
        part = inner.relative_to(outer).parts[0]
        if owner is not None and (part in _FILES[owner] or part.startswith((_JOURNAL, "."))):
            raise FittestError(f"{path}: is a part of {outer}, the folder of `fittest {owner}`; choose another --out")


def _mark(folder: Path) -> str:
    """Returns what `.lock` says; an empty one is of an earlier version, and other programs have files of this name."""
    lock = folder / _LOCK
    if not os.path.lexists(lock):
        return ""
    return lock.read_bytes()[:100].decode(errors="replace").strip() if lock.is_file() else "no file"


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Creates the folder and locks it; at the end, a folder that holds nothing but the lock is removed."""
    created: list[Path] = []
    for _ in range(_MOST_TRIES):
        created += make_folders(path)
        with suppress(FileNotFoundError):
            lock = (path / _LOCK).open("a", encoding="utf-8")
            _take(lock, path)
            # the process that held it until now may have removed it with an empty folder
            if _is_still(lock, path / _LOCK):
                break
            lock.close()
    else:
        raise FittestError(f"{path}: its {_LOCK} is removed again and again; choose another --out")
    with lock:
        try:
            yield lock
        finally:
            with suppress(OSError):
                if _is_still(lock, path / _LOCK) and [entry.name for entry in path.iterdir()] == [_LOCK]:
                    (path / _LOCK).unlink()
                    remove_empty(created)


def _take(lock: IO[str], path: Path) -> None:
    # unlike a file that only exists while a run works, flock holds nothing once the process is killed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        what = "this run" if (path / "run.toml").exists() else "there"
        raise FittestError(f"{path}: another fittest process is writing {what}; wait for it or stop it") from None


def _is_still(lock: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Turns what the file system says of a path into one line; a path with NUL in it is a ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise FittestError(f"{visible(str(path))}: cannot write there: {said}; choose another --out") from None
