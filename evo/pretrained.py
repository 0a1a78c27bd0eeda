"""Models and tokenizers of the Hugging Face library, from a hub name, a folder, or a GGUF file."""

from __future__ import annotations

import hashlib
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from evo.errors import FittestError


def load_pretrained(loader: str, model: str | Path, **options: Any) -> Any:
    """What an Auto class of transformers loads; weights of a GGUF file are dequantised.

    Args:
        loader: name of the Auto class.
        model: a hub name, a folder, or a .gguf file.
        options: further arguments of `from_pretrained`.

    Raises:
        FittestError: transformers is not installed, or has nothing to load there.
    """
    try:
        # imported by name, as an untyped module: its functions carry no annotations
        transformers: Any = import_module("transformers")
    except ImportError:
        raise FittestError(f'{model}: loading it needs transformers: pip install "fittest[embedded]"') from None
    path = Path(model).expanduser()
    source: str | Path = path if path.exists() else str(model)
    if path.is_file():
        source = path.parent
        options["gguf_file"] = path.name
        if "dtype" in options:
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        # two libraries draw bars while the weights are read, and only one of them can be asked not to
        with redirect_stderr(StringIO()):
            return getattr(transformers, loader).from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        what = "a tokenizer" if loader == "AutoTokenizer" else "a language model"
        raise FittestError(
            f"{model}: not loaded as {what} ({reason}); expected a folder, a .gguf file or a hub name"
        ) from error


def pretrained_id(model: str | Path) -> str:
    """What a model's results depend on: 16 hex digits over a file or folder, or name and commit on the hub.

    Raises:
        FittestError: there is no such model.
    """
    path = Path(model).expanduser()
    if path.exists():
        return _digest(path)[:16]
    from huggingface_hub import try_to_load_from_cache

    # once a part of the model is loaded, its file lies in a folder of the hub's cache that is named for the commit
    load_pretrained("AutoTokenizer", model)
    return f"{model}@{Path(str(try_to_load_from_cache(str(model), 'tokenizer_config.json'))).parent.name}"


def _digest(path: Path) -> str:
    """SHA-256 of a file, or over the files of a folder, in the order of their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256("".join(f"{file.name}:{_digest(file)}\n" for file in files).encode()).hexdigest()
