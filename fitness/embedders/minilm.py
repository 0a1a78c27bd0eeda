"""Provides sentence embeddings from a sentence-transformers folder; all-MiniLM-L6-v2 is the default of a run."""

from __future__ import annotations

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
        if not (self.folder / "modules.json").is_file():
            raise FittestError(f"{self.folder}: modules.json not found; expected a sentence-transformers folder")
        from sentence_transformers import SentenceTransformer

        with _no_progress_bar():
            return SentenceTransformer(str(self.folder), device=str(torch_device(self.device)), local_files_only=True)


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
