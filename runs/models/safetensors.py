"""Turns a GGUF file into a folder of safetensors in the cache: vLLM reads no GGUF, transformers slowly."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import file_fingerprint
from fittest.evo.pretrained.loading import load_pretrained
from fittest.runs.models.cache import cache_folder, local_path
from fittest.runs.models.fetch import locked
from fittest.runs.models.registry import MODELS


def weights_of(name: str, *, dtype: str = "float32") -> str:
    """What vLLM and transformers load for a model's name: a folder, converted if need be, or a name for a hub to find.

    Args:
        name: of a registered model, a path, or on the hub.
        dtype: of the copy that a GGUF file is turned into; float32 keeps every weight as it is.

    Raises:
        FittestError: a registered model that is not fetched yet, or a path that is not there.
    """
    path = local_path(name) if name in MODELS else Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(safetensors_folder(path, dtype))
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or path.suffix == ".gguf"):
        raise FittestError(f"no model at {path}")
    return str(path) if path.exists() else name


def safetensors_folder(gguf: Path, dtype: str) -> Path:
    """The dequantised copy of a GGUF model with its tokenizer, made when it is not there yet (SmolLM2-135M: 25 s).

    It is renamed into place once it is whole; of two processes that want it the second waits for the first.

    Raises:
        FittestError: transformers is not installed, or cannot read the file.
    """
    folder = cache_folder() / "models" / f"{gguf.stem}-{file_fingerprint(gguf)}-{dtype}"
    if folder.exists():
        return folder
    with locked(folder.name):
        if not folder.exists():
            sys.stderr.write(f"{gguf.name} is turned into safetensors, once\n")
            for abandoned in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workplace:
                copy = Path(workplace, "model")
                parts = (
                    load_pretrained("AutoModelForCausalLM", gguf, dtype=dtype),
                    load_pretrained("AutoTokenizer", gguf),
                )
                with redirect_stderr(StringIO()):  # a bar that nobody asked for
                    for part in parts:
                        part.save_pretrained(copy)
                copy.rename(folder)
    return folder
