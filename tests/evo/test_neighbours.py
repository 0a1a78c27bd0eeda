"""The kernel finds what a plain matrix product finds, whatever the block size."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.evo.neighbours import nearest_distances


def unit_rows(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_agrees_with_a_sorted_matrix_product(block: int) -> None:
    reference = unit_rows(90, 16)
    rows = np.arange(0, 90, 3)
    found = nearest_distances(reference[rows], reference, itself=rows, neighbours=5, device="cpu", block=block)
    similarity = reference[rows] @ reference.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    expected = 1.0 - np.sort(similarity, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_itself_is_left_out_but_a_copy_is_not() -> None:
    reference = unit_rows(4, 8)
    reference[3] = reference[0]
    found = nearest_distances(reference[:1], reference, itself=np.array([0]), neighbours=2, device="cpu")
    assert found[0, 0] == pytest.approx(0.0, abs=1e-6)
    assert found[0, 1] > 0.01


def test_where_there_are_too_few_the_rest_is_infinite() -> None:
    reference = unit_rows(2, 8)
    found = nearest_distances(reference, reference, itself=np.arange(2), neighbours=10, device="cpu")
    assert found.shape == (2, 2)
    assert np.isfinite(found[:, 0]).all()
    assert np.isinf(found[:, 1]).all()


def test_outsiders_are_compared_with_everything() -> None:
    reference = unit_rows(5, 8)
    found = nearest_distances(reference[:1], reference, itself=np.array([-1]), neighbours=1, device="cpu")
    assert found[0, 0] == pytest.approx(0.0, abs=1e-6)
