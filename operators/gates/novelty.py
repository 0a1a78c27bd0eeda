"""Turns away prompts whose meaning is too close to a prompt that was there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evo.prompt import Prompt

FIRST_ROWS = 1024


class Novelty:
    """Wants a least cosine distance to the nearest admitted embedding.

    Args:
        novelty: the least distance, in [0, 2]; a prompt at exactly this distance passes.
    """

    name = "novelty"
    ordered = True
    screens_pool = False
    needs_embedding = True

    def __init__(self, *, novelty: float) -> None:
        if not 0.0 <= novelty <= 2.0:
            raise ValueError(f"novelty must lie in [0, 2]; found {novelty}")
        self.novelty = novelty
        self._ids: list[str] = []
        self._matrix: NDArray[np.float32] | None = None

    def check(self, prompt: Prompt) -> str | None:
        """Name the nearest earlier prompt and its distance, when that is too small."""
        vector = _unit_vector(prompt)
        if self._matrix is None:
            return None
        similarity = self._matrix[: len(self._ids)] @ vector
        nearest = int(similarity.argmax())
        distance = 1.0 - float(similarity[nearest])
        return f"cosine distance {distance:.3f} to {self._ids[nearest]}" if distance < self.novelty else None

    def admit(self, prompt: Prompt) -> None:
        """Remember the embedding."""
        vector = _unit_vector(prompt)
        if self._matrix is None:
            self._matrix = np.empty((FIRST_ROWS, len(vector)), dtype=np.float32)
        elif len(self._ids) == len(self._matrix):
            self._matrix = np.concatenate([self._matrix, np.empty_like(self._matrix)])
        self._matrix[len(self._ids)] = vector
        self._ids.append(prompt.id)


def _unit_vector(prompt: Prompt) -> NDArray[np.float32]:
    if prompt.embedding is None:
        raise ValueError(f"prompt {prompt.id} reached the novelty gate without an embedding")
    return prompt.embedding
