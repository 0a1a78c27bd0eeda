"""Keeps the archive: every prompt that ever passed the gates, with its embedding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt


class Archive:
    """Holds prompts in the order in which they were accepted, and their embeddings in one growing matrix.

    Args:
        dimension: the length of an embedding.
    """

    def __init__(self, dimension: int) -> None:
        self._rows: dict[str, int] = {}
        self._prompts: list[Prompt] = []
        self._matrix = np.empty((1024, dimension), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, identity: str) -> bool:
        return identity in self._rows

    def __getitem__(self, identity: str) -> Prompt:
        return self._prompts[self._rows[identity]]

    def add(self, prompt: Prompt) -> None:
        """Adds one accepted prompt; its embedding must be set."""
        row = len(self._prompts)
        if row == len(self._matrix):
            # doubled, so that adding stays cheap and `embeddings` can be a view instead of a copy of all rows
            self._matrix = np.concatenate([self._matrix, np.empty_like(self._matrix)])
        self._matrix[row] = prompt.embedding
        self._rows[prompt.id] = row
        self._prompts.append(prompt)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Returns a view of all embeddings, shape (len(archive), dimension)."""
        return self._matrix[: len(self._prompts)]

    def rows(self, prompts: Iterable[Prompt]) -> NDArray[np.int64]:
        """Returns the positions of the prompts in `embeddings`, shape (prompts,)."""
        return np.array([self._rows[prompt.id] for prompt in prompts], dtype=np.int64)
