"""Diversity is a mean neighbour distance; the Vendi score counts different prompts."""

from __future__ import annotations

import numpy as np
import pytest

from fittest.fitness.diversity import NeighbourDiversity, vendi_score


def test_orthogonal_prompts_are_one_apart_and_count_each() -> None:
    vectors = np.eye(6, dtype=np.float32)
    diversity = NeighbourDiversity(neighbours=3, device="cpu")(vectors, np.arange(6))
    np.testing.assert_allclose(diversity, 1.0, atol=1e-6)
    assert vendi_score(vectors) == pytest.approx(6.0)


def test_copies_have_no_diversity_and_count_as_one() -> None:
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (5, 1))
    diversity = NeighbourDiversity(neighbours=10, device="cpu")(vectors, np.arange(5))
    np.testing.assert_allclose(diversity, 0.0, atol=1e-6)
    assert vendi_score(vectors) == pytest.approx(1.0)


def test_a_prompt_alone_has_no_diversity() -> None:
    assert np.isnan(NeighbourDiversity(device="cpu")(np.eye(1, 8, dtype=np.float32), np.array([0])))[0]


def test_the_dual_form_agrees_with_the_kernel_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh((vectors @ vectors.T).astype(np.float64) / len(vectors))
    positive = eigenvalues[eigenvalues > 1e-9]
    assert vendi_score(vectors) == pytest.approx(np.exp(-(positive * np.log(positive)).sum()), rel=1e-4)
