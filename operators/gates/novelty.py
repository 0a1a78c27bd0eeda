"""Turns away prompts whose meaning is too close to a prompt that was admitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt

_FIRST_ROWS = 1024
_HEAD = 64
# float32 sums of a few hundred products differ by less than this
_ROUNDING = 1e-5


class Novelty:
    """Requires a least cosine distance to the nearest admitted embedding.

    The check is exact, but the first 64 coordinates alone rule out most of the archive: for unit vectors that are
    split into head and tail, p·q ≤ head(p)·head(q) + |tail(p)| |tail(q)|. The time of a check is spent on reading
    rows, so reading a part of each row saves most of it.

    Args:
        novelty: the least distance, in [0, 2]; a prompt at exactly this distance passes.

    Raises:
        ValueError: `novelty` is outside [0, 2].
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
        self._rows = np.empty((0, 0), dtype=np.float32)
        self._heads = np.empty((0, 0), dtype=np.float32)
        self._tails = np.empty(0, dtype=np.float32)

    def check(self, prompt: Prompt) -> str | None:
        """Names the nearest earlier prompt and its distance, if that is too small."""
        vector, count = _unit_vector(prompt), len(self._ids)
        if not count:
            return None
        most = self._heads[:count] @ vector[:_HEAD] + self._tails[:count] * np.linalg.norm(vector[_HEAD:])
        near = np.flatnonzero(most > 1.0 - self.novelty - _ROUNDING)
        if not near.size:
            return None
        similarity = self._rows[near] @ vector
        nearest = int(similarity.argmax())
        distance = 1.0 - float(similarity[nearest])
        return f"cosine distance {distance:.3f} to {self._ids[near[nearest]]}" if distance < self.novelty else None

    def admit(self, prompt: Prompt) -> None:
        """Remembers the embedding."""
        vector, row = _unit_vector(prompt), len(self._ids)
        if row == len(self._rows):
            self._grow(len(vector))
        self._rows[row] = vector
        self._heads[row] = vector[:_HEAD]
        self._tails[row] = np.linalg.norm(vector[_HEAD:])
        self._ids.append(prompt.id)

    def _grow(self, dimension: int) -> None:
        """Doubles the room, so that adding a row stays cheap."""
        room = max(_FIRST_ROWS, 2 * len(self._rows))
        rows, heads, tails = self._rows, self._heads, self._tails
        self._rows = np.empty((room, dimension), dtype=np.float32)
        self._heads = np.empty((room, min(_HEAD, dimension)), dtype=np.float32)
        self._tails = np.empty(room, dtype=np.float32)
        if len(rows):
            self._rows[: len(rows)], self._heads[: len(heads)], self._tails[: len(tails)] = rows, heads, tails


def _unit_vector(prompt: Prompt) -> NDArray[np.float32]:
    if prompt.embedding is None:
        raise ValueError(f"prompt {prompt.id} reached the novelty gate without an embedding")
    return prompt.embedding
