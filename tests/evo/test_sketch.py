"""What a sketch rules out is never among the nearest: with it, the same distances are found to the last bit."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fittest.evo.backends.null import WORDS
from fittest.evo.neighbours import NearestSoFar
from fittest.evo.sketch import Sketch
from fittest.fitness.embedders.hashing import HashEmbedder


def hashed(count: int) -> np.ndarray:
    rng = random.Random(1)
    return HashEmbedder().embed([" ".join(rng.choices(WORDS, k=rng.randint(1, 24))) for _ in range(count)])


def in_clusters(count: int, dimension: int = 384) -> np.ndarray:
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((40, dimension))
    rows = centres[rng.integers(0, 40, count)] + rng.standard_normal((count, dimension)) * rng.uniform(
        0, 2, (count, 1)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def with_copies(count: int) -> np.ndarray:
    rows = in_clusters(count, 33)
    rows[::7] = rows[0]
    rows[1::11] = rows[1]
    return rows


def on_few_axes(count: int) -> np.ndarray:
    """Many similarities are equal, and many are 0."""
    rows = np.zeros((count, 48), dtype=np.float32)
    rows[np.arange(count), np.random.default_rng(3).integers(0, 48, count)] = 1.0
    return rows


def unlike_in_length(count: int) -> np.ndarray:
    """No embedder gives these, but the bound does not rest on that."""
    rows = in_clusters(count, 20) * np.random.default_rng(4).uniform(0, 100, (count, 1)).astype(np.float32)
    rows[::13] = 0.0
    return rows.astype(np.float32)


KINDS = [hashed, in_clusters, with_copies, on_few_axes, unlike_in_length]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets sketches be used on every processor and beside few rows, and notes how many rows they were asked about."""
    numbers: list[int] = []
    candidates = Sketch.candidates

    def noted(self: Sketch, vectors: np.ndarray, rows: np.ndarray) -> object:
        numbers.append(len(rows))
        return candidates(self, vectors, rows)

    monkeypatch.setattr(Sketch, "worth", lambda self, count: count > 100)
    monkeypatch.setattr(Sketch, "candidates", noted)
    return numbers


def without_sketch(monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    with monkeypatch.context() as patched:
        patched.setattr(Sketch, "worth", lambda self, count: False)
        return NearestSoFar(neighbours=k, device="cpu").distances(vectors, rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("neighbours", [1, 10, 200])
def test_the_same_bits_are_found_however_the_matrix_has_grown(
    asked: list[int], monkeypatch: pytest.MonkeyPatch, kind: object, neighbours: int
) -> None:
    vectors = kind(3000)  # type: ignore[operator]
    matrix = np.empty_like(vectors)
    matrix[:] = vectors
    growing, rng = NearestSoFar(neighbours=neighbours, device="cpu"), np.random.default_rng(5)
    for count in (90, 150, 1111, 1112, 1300, 2047, 3000):
        rows = rng.integers(max(0, count - 300), count, size=int(rng.integers(1, 40)))
        found = growing.distances(matrix[:count], rows)
        np.testing.assert_array_equal(found, without_sketch(monkeypatch, vectors[:count], rows, neighbours))
    assert asked


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_farther_than_the_nearest(kind: object) -> None:
    vectors = kind(2500)  # type: ignore[operator]
    sketch, rows = Sketch(neighbours=5), np.arange(0, 2500, 31)
    sketch.follow(vectors)
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    for few, near in sketch.candidates(vectors[rows], rows):
        others = np.delete(similarity[few], near, axis=1)
        if others.size:
            assert (others.max(axis=1) < np.sort(similarity[few], axis=1)[:, -5]).all()
        assert np.isin(few, near).all()


@pytest.mark.parametrize("kind", [hashed, in_clusters])
def test_little_is_left(kind: object) -> None:
    vectors = kind(6000)  # type: ignore[operator]
    sketch = Sketch(neighbours=10)
    sketch.follow(vectors)
    ((few, near),) = sketch.candidates(vectors[:1], np.array([0]))
    assert few.tolist() == [0]
    assert len(near) < 600


def test_it_is_not_worth_its_cost_beside_few_rows() -> None:
    assert not Sketch(neighbours=10).worth(1000)
    assert not Sketch(neighbours=1000).worth(100_000)
