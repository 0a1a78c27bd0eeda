"""Turns a GGUF file into a cached folder of safetensors: vLLM cannot read GGUF, and transformers reads it slowly."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import file_digest, file_fingerprint
from fittest.evo.pretrained.loading import load_pretrained
from fittest.runs.models.cache import cache_folder, known_digest, local_path
from fittest.runs.models.fetch import locked
from fittest.runs.models.registry import MODELS
from fittest.runs.terminal import tell

_DIGESTS = ".digests.json"
"""The file with the SHA-256 of the copy's other files; hidden files are no part of a model's identity."""


def weights_of(name: str, *, dtype: str = "float32") -> str:
    """Returns what vLLM and transformers load for a model's name: a folder, or a name for a hub to find.

    Args:
        name: the name of a registered model, a path, or a name on the hub; a GGUF file is converted.
        dtype: the precision of a converted copy; float32 keeps every weight as it is.

    Raises:
        FittestError: a registered model is not fetched yet, or a path does not exist.
    """
    path = local_path(name) if name in MODELS else Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(_safetensors_folder(path, dtype))
    # a name such as owner/model is left to the hub; what can only be a path is refused here, with a clear message
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or path.suffix == ".gguf"):
        raise FittestError(f"no model at {path}")
    return str(path) if path.exists() else name


def _safetensors_folder(gguf: Path, dtype: str) -> Path:
    """Returns the dequantised copy of a GGUF model and its tokenizer; the first call makes it (SmolLM2-135M: 25 s).

    The copy is renamed into place once it is whole. Of two processes that want it, the second waits for the first.

    Args:
        gguf: the GGUF file.
        dtype: the precision of the copy, as transformers names it.

    Raises:
        FittestError: transformers is not installed, or it cannot read the file.
    """
    # the name holds all that the copy depends on, so another file of the same name gets a copy of its own
    folder = cache_folder() / "models" / f"{gguf.stem}-{file_fingerprint(gguf)}-{dtype}"
    if folder.exists():
        _check_copy(folder)
        return folder
    with locked(folder.name):
        if not folder.exists():
            tell(f"{gguf.name} is turned into safetensors, once")
            for abandoned in folder.parent.glob(f".{folder.name}-*"):  # left by a process that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workplace:
                copy = Path(workplace, "model")
                parts = (
                    load_pretrained("AutoModelForCausalLM", gguf, dtype=dtype),
                    load_pretrained("AutoTokenizer", gguf),
                )
                with redirect_stderr(StringIO()):  # transformers would draw a progress bar
                    for part in parts:
                        part.save_pretrained(copy)
                _write_digests(copy)
                copy.rename(folder)
    return folder


def _write_digests(copy: Path) -> None:
    digests = {file.name: file_digest(file) for file in sorted(copy.iterdir()) if not file.name.startswith(".")}
    (copy / _DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _check_copy(folder: Path) -> None:
    """Compares the copy's files with their hashes; a copy of an older version of this library has none yet.

    Args:
        folder: the copy.

    Raises:
        FittestError: a file is not what was written.
    """
    try:
        digests: dict[str, str] = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
        damaged = next((name for name, digest in digests.items() if known_digest(folder / name) != digest), None)
    except FileNotFoundError as error:
        if Path(error.filename) == folder / _DIGESTS:
            return
        damaged = Path(error.filename).name
    except (OSError, ValueError, AttributeError, TypeError):
        damaged = _DIGESTS
    if damaged is not None:
        raise FittestError(f"{folder / damaged} is damaged: remove {folder}, and the copy is made anew")
