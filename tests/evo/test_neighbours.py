"""The kernel finds what a plain matrix product finds, whatever the block size, and however the matrix has grown."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.evo.archive import Archive
from fittest.evo.neighbours import NearestSoFar
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth


def unit_rows(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(neighbours: int, *, block: int = 4096) -> NearestSoFar:
    return NearestSoFar(neighbours=neighbours, device="cpu", block=block)


def expected(reference: np.ndarray, rows: np.ndarray, neighbours: int) -> np.ndarray:
    similarity = reference[rows] @ reference.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return 1.0 - np.sort(similarity, axis=1)[:, ::-1][:, :neighbours]


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_agrees_with_a_sorted_matrix_product(block: int) -> None:
    reference = unit_rows(90, 16)
    rows = np.arange(0, 90, 3)
    found = nearest(5, block=block).distances(reference, rows)
    np.testing.assert_allclose(found, expected(reference, rows, 5), atol=1e-6)


@pytest.mark.parametrize("block", [64, 200, 4096])
def test_a_matrix_that_has_grown_gives_the_bits_of_one_that_was_there_at_once(block: int) -> None:
    vectors, rng = unit_rows(1500, 48, 1), np.random.default_rng(2)
    growing, archive = nearest(10, block=block), Archive(48)
    for number, vector in enumerate(vectors):
        prompt = Prompt(f"prompt {number}", Birth(operator="pool", generation=0, slot=number))
        prompt.embedding = vector
        archive.add(prompt)
        if number % 97 == 0:
            growing.distances(archive.embeddings, np.unique(rng.integers(0, number + 1, size=40)))
        elif number % 31 == 0:
            growing.distances(archive.embeddings, np.array([number - 3]))
    rows = rng.integers(0, 1500, size=300)
    at_once = nearest(10, block=block).distances(vectors, rows)
    np.testing.assert_array_equal(growing.distances(archive.embeddings, rows), at_once)
    np.testing.assert_allclose(at_once, expected(vectors, rows, 10), atol=1e-6)


def test_no_pair_is_compared_twice() -> None:
    vectors, growing = unit_rows(4000, 16), nearest(3)
    matrix = np.empty((4000, 16), dtype=np.float32)
    matrix[:] = vectors
    growing.distances(matrix[:3000], np.arange(3000))
    before = growing.compared
    growing.distances(matrix[:3000], np.arange(3000))
    assert growing.compared == before == 3000 * 3000
    growing.distances(matrix[:3001], np.array([3000]))
    assert growing.compared == before + 3001


def test_another_matrix_is_measured_from_its_beginning() -> None:
    one, other = unit_rows(60, 8, 1), unit_rows(80, 8, 2)
    found = nearest(4)
    for reference in (one, other, one[:50], other[:50].copy()):
        rows = np.arange(0, 50, 2)
        np.testing.assert_allclose(found.distances(reference, rows), expected(reference, rows, 4), atol=1e-6)


def test_itself_is_left_out_but_a_copy_is_not() -> None:
    reference = unit_rows(4, 8)
    reference[3] = reference[0]
    found = nearest(2).distances(reference, np.array([0]))
    assert found[0, 0] == pytest.approx(0.0, abs=1e-6)
    assert found[0, 1] > 0.01


def test_where_there_are_too_few_the_rest_is_infinite() -> None:
    reference = unit_rows(2, 8)
    found = nearest(10).distances(reference, np.arange(2))
    assert found.shape == (2, 2)
    assert np.isfinite(found[:, 0]).all()
    assert np.isinf(found[:, 1]).all()


def test_of_no_rows_there_is_nothing_to_tell() -> None:
    assert nearest(3).distances(unit_rows(5, 8), np.array([], dtype=np.int64)).shape == (0, 3)
