"""Replaces several files of a folder as one: whenever a kill comes, a reader gets all old files or all new ones.

No file system renames two files at once. The new files are therefore made in a hidden folder, which is renamed when it
is whole; this is the moment from which they count. Then they are moved into place one by one. A kill in between leaves
the hidden folder, and whichever command next reads or writes the folder moves the rest before it does anything else.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.output.atomic import (
    TEMPORARY,
    cannot_write,
    flush_folder,
    lock_unfinished,
    temporary_name,
    write_json,
)

_WHOLE = ".fittest-*.set"
"""New files that are all there, and are moved into place."""

_PLAN = "moves.json"
_OLD = ".old-"


@contextmanager
def replaced_together(folder: Path, *, without: Sequence[str] = ()) -> Iterator[Path]:
    """Gives an empty folder; what is in it when the block succeeds replaces what `folder` has under the same names.

    Args:
        folder: the folder; it is created, and goes again if the block fails and nothing else is in it.
        without: names of files and folders that are removed with the old ones, unless there are new ones.

    Raises:
        FittestError: the file system refuses, or a file of the new ones would replace a folder.
    """
    with ExitStack() as until_the_end:
        with _in_one_line(folder):
            until_the_end.callback(remove_empty, make_folders(folder))
            settle(folder)
            sweep(folder)
            new = until_the_end.enter_context(_unfinished_folder(folder))
        yield new
        with _in_one_line(folder):
            _replace(folder, new, without)


def settle(folder: Path) -> None:
    """Moves into place what a killed process left whole; every reader of several files calls this first.

    Args:
        folder: a folder of ours, or one that is not there.

    Raises:
        FittestError: something is left, and it cannot be moved.
    """
    try:
        # without a lock first: a folder in which nothing is left is not touched, and may be read-only
        if not any(folder.glob(_WHOLE)):
            return
        with _only_here(folder):
            for whole in sorted(folder.glob(_WHOLE)):
                _move(whole)
    except (OSError, ValueError) as error:
        raise FittestError(
            f"{folder}: a killed command left new files that are not in place yet, and they cannot be moved"
            f" ({getattr(error, 'strerror', None) or error}); make the folder writable, and repeat the command"
        ) from error


def sweep(folder: Path) -> None:
    """Removes what dead processes left unfinished; what a living one writes is locked, and stays."""
    for path in folder.glob(TEMPORARY):
        # somebody else may have removed it, or it is not ours to remove
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path)
            finally:
                os.close(descriptor)


def make_folders(folder: Path) -> list[Path]:
    """Creates a folder with its parents, and returns those that were not there before, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, the innermost first, as long as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it; there need not be one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise cannot_write(folder, error) from error


@contextmanager
def _unfinished_folder(folder: Path) -> Iterator[Path]:
    while True:
        new = temporary_name(folder)
        new.mkdir()
        descriptor = os.open(new, os.O_RDONLY)
        if lock_unfinished(descriptor, new):
            break
        os.close(descriptor)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _only_here(folder: Path) -> Iterator[None]:
    """Lets one process at a time move files into a folder; the lock is on the folder, so that no file is left."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # a file system without locks serves one process as well as before
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(folder: Path, new: Path, without: Sequence[str]) -> None:
    names = sorted(path.name for path in new.iterdir())
    for name in names:
        if (folder / name).is_dir() and not (new / name).is_dir():
            raise FittestError(f"cannot write {folder / name}: Is a directory")
    write_json(new / _PLAN, {"new": names, "without": [name for name in without if name not in names]})
    with _only_here(folder):
        for left in sorted(folder.glob(_WHOLE)):
            _move(left)
        whole = new.with_suffix(".set")
        new.rename(whole)
        flush_folder(folder)
        _move(whole)


def _move(whole: Path) -> None:
    """Moves what is not in place yet, and removes the hidden folder; it may be done again after a kill."""
    folder, plan = whole.parent, whole / _PLAN
    # the plan goes last, so without it all is in place
    if plan.is_file():
        moves = json.loads(plan.read_text(encoding="utf-8"))
        for name in _names(plan, moves.get("without")):
            remove(folder / name)
        for name in _names(plan, moves.get("new")):
            if os.path.lexists(whole / name):
                _put(whole / name, folder / name)
        flush_folder(folder)
        plan.unlink()
    shutil.rmtree(whole)


def _put(new: Path, place: Path) -> None:
    # a file replaces a file; a folder that holds anything has to go out of the way
    if new.is_dir():
        old = new.with_name(_OLD + new.name)
        remove(old)
        if os.path.lexists(place):
            place.rename(old)
    new.replace(place)


def _names(plan: Path, listed: object) -> list[str]:
    """Returns the names, which lead nowhere else: the plan may have come with a folder from somebody else."""
    names = listed if isinstance(listed, list) else []
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{plan}: {visible(str(name))} is no name of a file")
    return names
