"""Provides sentence embeddings from a sentence-transformers folder; all-MiniLM-L6-v2 is the default of a run."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.device import torch_device
from fittest.evo.pretrained.fingerprints import joined_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class MiniLM:
    """Gives unit vectors of a sentence-transformers model, with one forward pass for each text.

    Texts are never batched: padding changes the last bits of a row, which would then depend on the other texts.
    all-MiniLM-L6-v2 reads the first 256 word pieces of a text; the rest has no influence.

    Args:
        folder: a sentence-transformers folder on this machine; the network is never used.
        device: a torch device, or "auto", which prefers an accelerator.
    """

    quick = False

    def __init__(self, *, folder: Path, device: str = "auto") -> None:
        self.folder = folder
        self.device = device
        # tokenizers raises "Already borrowed" when two threads share one tokenizer
        self._lock = threading.RLock()

    @cached_property
    def fingerprint(self) -> str:
        """Joins `minilm:` and the first 16 hex digits of the SHA-256 of the weights."""
        return f"minilm:{_weights_digest(self.folder)[:16]}"

    @cached_property
    def dimension(self) -> int:
        """Returns the length of the vectors."""
        return len(self._embed_one(""))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns embeddings, shape (len(texts), dimension)."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return np.stack([self._embed_one(text) for text in texts])

    def _embed_one(self, text: str) -> NDArray[np.float32]:
        with self._lock, _one_thread():
            vector = self._model.encode(text, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vector, dtype=np.float32)

    @cached_property
    def _model(self) -> Any:
        _check_modules(self.folder)
        from sentence_transformers import SentenceTransformer

        try:
            with _no_progress_bar():
                return SentenceTransformer(
                    str(self.folder),
                    device=str(torch_device(self.device)),
                    local_files_only=True,
                    trust_remote_code=False,
                    # a pickle in their place could hold code
                    model_kwargs={"use_safetensors": True},
                )
        except Exception as error:  # whatever it is, it comes from the files of the folder
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise FittestError(f"{self.folder}: not loaded as a sentence-transformers model ({reason})") from error


def _check_modules(folder: Path) -> None:
    """Refuses a folder whose modules are not those of the library.

    Versions of sentence-transformers before 6 import any class that a folder on this machine names.

    Args:
        folder: the folder.

    Raises:
        FittestError: there is no list of modules, or one of them is not the library's.
    """
    file = folder / "modules.json"
    if not file.is_file():
        raise FittestError(f"{folder}: modules.json not found; expected a sentence-transformers folder")
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        foreign = [kind for module in modules if not (kind := module["type"]).startswith("sentence_transformers.")]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise FittestError(f"{file}: expected a list of modules, each with a type") from None
    if foreign:
        raise FittestError(f"{file}: names code of its own, {str(foreign[0])[:100]}; expected modules of the library")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps a forward pass on one core: more threads compete with the engine's and made it ten times slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers from drawing a progress bar, which would break the run's own display."""
    # imported by name, as an untyped module: its functions carry no annotations
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _weights_digest(folder: Path) -> str:
    """Returns the SHA-256 over the weight files in the order of their paths; of one file, the digest of that file."""
    files = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    if not files:
        raise FittestError(f"{folder}: no *.safetensors found; expected a sentence-transformers folder")
    return joined_digest(files)
