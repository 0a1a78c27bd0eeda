"""Turns away prompts whose meaning is too close to a prompt that was admitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt

_FIRST_ROWS = 1024
# the coordinates that are looked at first, and those that are looked at next
_COARSE, _FINE = 24, 64
# rows from which the axes are found; more change little
_MOST_FOR_AXES = 4096
# float32 sums of a few hundred products differ by less than this
_ROUNDING = 1e-5


class Novelty:
    """Requires a least cosine distance to the nearest admitted embedding.

    The check is exact, but few coordinates rule out most of the archive: for unit vectors that are split into head and
    tail, p·q ≤ head(p)·head(q) + |tail(p)| |tail(q)|. The time of a check is spent on reading rows, so the first 24
    coordinates are read of all rows, 64 of those that are left, and whole rows of the few that are left then. The
    coordinates are those along which the admitted embeddings differ most; they are chosen anew each time the archive
    has doubled, and no verdict depends on the choice.

    Args:
        novelty: the least distance, in [0, 2]; a prompt at exactly this distance passes.

    Raises:
        ValueError: `novelty` is outside [0, 2].

    Attributes:
        compared: the number of whole embeddings that were compared so far.
    """

    name = "novelty"
    ordered = True
    screens_pool = False
    needs_embedding = True

    def __init__(self, *, novelty: float) -> None:
        if not 0.0 <= novelty <= 2.0:
            raise ValueError(f"novelty must lie in [0, 2]; found {novelty}")
        self.novelty = novelty
        self.compared = 0
        self._ids: list[str] = []
        self._rows = np.empty((0, 0), dtype=np.float32)
        self._axes = np.empty((0, 0), dtype=np.float32)
        # heads with the length of their tails as one more coordinate, so that one product gives the bound; the coarse
        # ones stand in columns, which are read in half the time
        self._coarse = np.empty((0, 0), dtype=np.float32)
        self._fine = np.empty((0, 0), dtype=np.float32)

    def check(self, prompt: Prompt) -> str | None:
        """Names the nearest earlier prompt and its distance, if that is too small."""
        vector, count = _unit_vector(prompt), len(self._ids)
        if not count:
            return None
        least = 1.0 - self.novelty - _ROUNDING
        coarse, fine = self._heads(vector[np.newaxis])
        near = np.flatnonzero(coarse[0] @ self._coarse[:, :count] > least)
        near = near[self._fine[near] @ fine[0] > least]
        if not near.size:
            return None
        self.compared += len(near)
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
        coarse, fine = self._heads(vector[np.newaxis])
        self._coarse[:, row], self._fine[row] = coarse[0], fine[0]
        self._ids.append(prompt.id)

    def _grow(self, dimension: int) -> None:
        """Doubles the room, so that adding a row stays cheap, and turns the axes to what is there now."""
        known = self._rows
        room = max(_FIRST_ROWS, 2 * len(known))
        self._axes = _main_axes(known) if len(known) else np.eye(dimension, dtype=np.float32)[:, :_FINE]
        self._rows = np.empty((room, dimension), dtype=np.float32)
        self._coarse = np.empty((min(_COARSE, dimension) + 1, room), dtype=np.float32)
        self._fine = np.empty((room, min(_FINE, dimension) + 1), dtype=np.float32)
        if len(known):
            self._rows[: len(known)] = known
            coarse, fine = self._heads(known)
            self._coarse[:, : len(known)], self._fine[: len(known)] = coarse.T, fine

    def _heads(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        turned = vectors @ self._axes
        return _with_tail(turned[:, :_COARSE]), _with_tail(turned)


def _main_axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the directions in which vectors extend most, of length 1 and at right angles, shape (d, at most 64)."""
    some = vectors[:: -(-len(vectors) // _MOST_FOR_AXES)].astype(np.float64)
    # eigenvalues ascend
    axes = np.linalg.eigh(some.T @ some).eigenvectors[:, ::-1]
    return np.ascontiguousarray(axes[:, :_FINE], dtype=np.float32)


def _with_tail(heads: NDArray[np.float32]) -> NDArray[np.float32]:
    """Appends to each head of a unit vector the length of its tail, which is never told too short."""
    squared = np.maximum(1.0 - np.square(heads).sum(axis=1, keepdims=True), 0.0)
    return np.concatenate([heads, np.sqrt(squared + _ROUNDING, dtype=np.float32)], axis=1)


def _unit_vector(prompt: Prompt) -> NDArray[np.float32]:
    if prompt.embedding is None:
        raise ValueError(f"prompt {prompt.id} reached the novelty gate without an embedding")
    return prompt.embedding
