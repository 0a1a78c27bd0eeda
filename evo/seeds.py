"""Keeps one tree of seeds for a whole run: every draw has its place, so no draw depends on the order of others."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Names the first branch of the tree.

    A number never changes and is never used again, because a seed that moved would change every run.
    """

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
    HALVES = 14
    BREADTH = 20
    CELLS = 21


class SeedTree:
    """Gives children of one `numpy.random.SeedSequence` by (stream, path) and not by their order of creation.

    `SeedSequence.spawn` is not used: it numbers children as they are asked for, which differs between a run and its
    resumption.

    Args:
        seed: the seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, stream: Stream, *path: int) -> np.random.Generator:
        """Returns an independent generator for one place in the tree."""
        return np.random.default_rng(self._sequence(stream, path))

    def engine_seed(self, stream: Stream, *path: int) -> int:
        """Returns a seed in [0, 2**31) for an engine."""
        return self.engine_seeds(stream, *path, count=1)[0]

    def engine_seeds(self, stream: Stream, *path: int, count: int) -> list[int]:
        """Returns seeds for the samples of one prompt; the first ones are the same whatever the count."""
        # 31 bits keep clear of 2**32 − 1, which llama.cpp reads as "pick a seed yourself"
        return [word & 0x7FFFFFFF for word in self._sequence(stream, path).generate_state(count).tolist()]

    def _sequence(self, stream: Stream, path: tuple[int, ...]) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(int(stream), *path))
