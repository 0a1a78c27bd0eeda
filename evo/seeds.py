"""One tree of seeds for a whole run: every draw has a place in it, so no draw depends on the order of others."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The first branch of the tree; the numbers are part of the reproducibility promise and never change."""

    SLOT = 1
    PROPOSAL = 2
    ROLLOUT = 3
    POOL = 4
    JUDGE = 5
    PAIRING = 6
    AUDIT = 7
    PILOT = 8
    LABEL = 9
    PAIR = 10
    ANNOTATION = 11
    TRAINING = 12
    REFERENCE = 13


class SeedTree:
    """Children of one `numpy.random.SeedSequence`, addressed by (stream, path) instead of by order of creation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, stream: Stream, *path: int) -> np.random.Generator:
        """An independent generator for one place in the tree."""
        return np.random.default_rng(self._sequence(stream, path))

    def engine_seed(self, stream: Stream, *path: int) -> int:
        """A seed in [0, 2**31) for an engine (llama.cpp takes 2**32 − 1 for "pick one yourself")."""
        return self.engine_seeds(stream, *path, count=1)[0]

    def engine_seeds(self, stream: Stream, *path: int, count: int) -> list[int]:
        """Seeds for the samples of one prompt; the first ones are the same whatever the count."""
        return [word & 0x7FFFFFFF for word in self._sequence(stream, path).generate_state(count).tolist()]

    def _sequence(self, stream: Stream, path: tuple[int, ...]) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(int(stream), *path))
