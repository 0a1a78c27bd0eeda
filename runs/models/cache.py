"""Finds the cached copies of the embedded models, and checks whether they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import file_digest
from fittest.runs.models.registry import MODELS, EmbeddedModel, ModelFile
from fittest.runs.models.verified import verified_digest


@dataclass(frozen=True, slots=True)
class ModelState:
    """Describes the cached copy of a model; `detail` says what is wrong with a damaged copy."""

    model: EmbeddedModel
    path: Path
    state: Literal["ready", "absent", "damaged"]
    detail: str = ""


def local_path(name: str) -> Path:
    """Returns the file or folder of a model, after a look at the hash of each file of a registered one.

    Args:
        name: a registered name, which means its cached copy, or any path that exists.

    Raises:
        FittestError: the model is not fetched yet, its copy is damaged, or the name is not known.
    """
    if name not in MODELS:
        path = Path(name).expanduser()
        if path.exists():
            return path
        raise FittestError(f"no model {name!r}: neither a path that exists nor one of {', '.join(MODELS)}")
    state = model_state(MODELS[name], digest_of=known_digest)
    if state.state == "ready":
        return state.path
    trouble = "is not fetched yet" if state.state == "absent" else f"is damaged ({state.detail})"
    raise FittestError(f"the model {name} {trouble}: run `fittest models pull {name}`")


def available() -> list[ModelState]:
    """Returns the state of every registered model; sizes are checked, contents are not."""
    # hashing 190 MB would take longer than a list should
    return [model_state(model) for model in MODELS.values()]


def verify(name: str) -> ModelState:
    """Returns the state of one model after reading every byte of it."""
    return model_state(MODELS[name], digest_of=file_digest)


def cache_folder() -> Path:
    """Returns `$FITTEST_CACHE`; if it is not set, `fittest` in `$XDG_CACHE_HOME` or else in `~/.cache`."""
    if own := os.environ.get("FITTEST_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fittest"


def find_model(name: str) -> str:
    """Returns the path of a registered model's cached copy; any other name is returned as it is, for a hub to find."""
    return str(local_path(name)) if name in MODELS else name


def model_folder(model: EmbeddedModel) -> Path:
    """Returns the folder in which the cache keeps a model's files."""
    return cache_folder() / "models" / model.name


def known_digest(file: Path) -> str:
    """Returns the SHA-256 of a file in hex; a file that has not changed since the last time is not read again."""
    return verified_digest(file, cache_folder() / "verified.json")


def model_state(model: EmbeddedModel, *, digest_of: Callable[[Path], str] | None = None) -> ModelState:
    """Compares a model's cached copy with the registry.

    Args:
        model: the model.
        digest_of: returns the SHA-256 of a file; None compares sizes alone.
    """
    folder = model_folder(model)
    path = folder / model.files[0].path if len(model.files) == 1 else folder
    if not folder.exists():
        return ModelState(model, path, "absent")
    problem = find_problem(model, folder, digest_of=digest_of)
    return ModelState(model, path, "damaged" if problem else "ready", problem or "")


def find_problem(model: EmbeddedModel, folder: Path, *, digest_of: Callable[[Path], str] | None) -> str | None:
    """Returns what is wrong with the first bad file of a model's copy, or None if all files are right.

    Args:
        model: the model.
        folder: where the copy lies.
        digest_of: returns the SHA-256 of a file; None compares sizes alone.
    """
    return next((found for file in model.files if (found := _file_problem(folder, file, digest_of))), None)


def _file_problem(folder: Path, file: ModelFile, digest_of: Callable[[Path], str] | None) -> str | None:
    path = folder / file.path
    try:
        if (size := path.stat().st_size) != file.size:
            return f"{path} has {size:,} bytes instead of {file.size:,}"
        if digest_of is not None and (found := digest_of(path)) != file.sha256:
            return f"{path} has SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None
