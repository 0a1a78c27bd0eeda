"""Diversity is a mean neighbour distance; the Vendi score counts different prompts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.diversity import EqualSizeVendi, NeighbourDiversity, rarefied_vendi, vendi_score


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


def _unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_larger_set_of_the_same_kind_is_no_broader_at_equal_size() -> None:
    few, many = _unit(24, 48), _unit(240, 48, seed=1)
    assert vendi_score(many) > 1.5 * vendi_score(few)
    rarefied = rarefied_vendi(many, 24, np.random.default_rng(0))
    assert rarefied.mean == pytest.approx(vendi_score(few), rel=0.1)
    assert 0 < rarefied.sd < 0.1 * rarefied.mean


def test_a_set_that_gained_copies_is_less_broad_at_equal_size() -> None:
    few = _unit(20, 32)
    grown = np.concatenate([few, np.repeat(few[:2], 40, axis=0)])
    assert rarefied_vendi(grown, 20, np.random.default_rng(0)).mean < 0.5 * vendi_score(few)


def test_a_subsample_of_all_is_the_set_itself() -> None:
    vectors = _unit(12, 32)
    assert rarefied_vendi(vectors, 12, np.random.default_rng(0)) == (vendi_score(vectors), 0.0, 12)


def test_rarefaction_is_the_mean_over_all_subsamples() -> None:
    vectors = _unit(6, 4)
    exact = np.mean([vendi_score(vectors[list(rows)]) for rows in combinations(range(6), 3)])
    found = rarefied_vendi(vectors, 3, np.random.default_rng(0), draws=2000)
    assert found.mean == pytest.approx(exact, rel=0.01)


def test_all_generations_of_a_run_are_measured_at_the_size_of_the_first_that_has_enough() -> None:
    measure = EqualSizeVendi(SeedTree(1))
    assert measure(0, _unit(7, 8)) is None
    assert measure(1, _unit(9, 8)) == (vendi_score(_unit(9, 8)), 0.0, 9)
    later = measure(2, _unit(30, 8))
    assert later is not None
    assert later.size == 9
    assert later == rarefied_vendi(_unit(30, 8), 9, SeedTree(1).generator(Stream.BREADTH, 2))
    assert measure(3, _unit(8, 8)) is None


def test_a_large_population_is_measured_at_a_size_that_costs_little() -> None:
    found = EqualSizeVendi(SeedTree(1))(0, _unit(500, 8))
    assert found is not None
    assert found.size == EqualSizeVendi.MOST
