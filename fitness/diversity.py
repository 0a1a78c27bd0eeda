"""Measures how different prompts are: by the distance to neighbours for one, by the Vendi score for a population."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fittest.evo.neighbours import NearestSoFar
from fittest.evo.seeds import SeedTree, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NeighbourDiversity:
    """Measures the mean cosine distance of a prompt to its k nearest neighbours in the population and the archive.

    What was found is kept, so that a prompt is compared once with each prompt of an archive that grows.

    Args:
        neighbours: k; if there are fewer other prompts, all of them count.
        device: a torch device, or "auto".
    """

    def __init__(self, *, neighbours: int = 10, device: str = "auto") -> None:
        self._nearest = NearestSoFar(neighbours=neighbours, device=device)

    def __call__(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the diversity of the prompts at `rows` of `reference`.

        Args:
            reference: unit vectors of everything that passed the gates, shape (n, d); its rows do not change.
            rows: positions in `reference`, shape (q,).

        Returns:
            Mean distances in [0, 2], shape (q,); NaN for a prompt without any neighbour.
        """
        distances = self._nearest.distances(reference, rows).astype(np.float64)
        found = np.isfinite(distances)
        count = found.sum(axis=1)
        total = np.where(found, distances, 0.0).sum(axis=1)
        diversity = np.full(len(rows), np.nan)
        # `where`, since 0 / 0 would warn and warnings are errors
        np.divide(total, count, out=diversity, where=count > 0)
        return diversity


class Breadth(NamedTuple):
    """Holds a Vendi score at a given size: its mean over subsamples, their standard deviation, and the size."""

    mean: float
    sd: float
    size: int


class EqualSizeVendi:
    """Measures the populations of a run at one size, so that a larger one is not broader for its number alone.

    The size is that of the first population that has at least `FEWEST` prompts, and at most `MOST`. It then stays.

    Args:
        seeds: the run's seed tree; a generation has subsamples of its own.

    Attributes:
        FEWEST: among fewer prompts there is too little to compare.
        MOST: the cost of a score grows with the third power of the size, and this much is paid in each generation.
    """

    FEWEST = 8
    MOST = 64

    def __init__(self, seeds: SeedTree) -> None:
        self._seeds = seeds
        self._size = 0

    def __call__(self, generation: int, embeddings: NDArray[np.float32]) -> Breadth | None:
        """Returns the breadth of a population; None if it has fewer prompts than those it is compared with.

        Args:
            generation: the generation after which this is the population; calls come in this order.
            embeddings: unit vectors, shape (n, d), in an order that depends on the prompts alone.
        """
        if not self._size and len(embeddings) >= self.FEWEST:
            self._size = min(len(embeddings), self.MOST)
        if not 0 < self._size <= len(embeddings):
            return None
        return rarefied_vendi(embeddings, self._size, self._seeds.generator(Stream.BREADTH, generation))


def rarefied_vendi(
    embeddings: NDArray[np.float32], size: int, rng: np.random.Generator, *, draws: int = 64
) -> Breadth:
    """Returns the Vendi score that so many of the prompts have: the mean over subsamples without replacement.

    The Vendi score of a set grows with its number, as the count of species grows with the area that is searched. Sets
    of different numbers are therefore compared at the size of the smallest, which ecologists call rarefaction.

    Args:
        embeddings: unit vectors, shape (n, d).
        size: how many prompts are in a subsample, 1 ≤ size ≤ n.
        rng: draws the subsamples.
        draws: the number of subsamples.
    """
    if size == len(embeddings):
        return Breadth(vendi_score(embeddings), 0.0, size)
    rows = np.stack([rng.choice(len(embeddings), size=size, replace=False) for _ in range(draws)])
    vectors = embeddings[rows].astype(np.float64)
    kernels = vectors @ vectors.transpose(0, 2, 1) / size
    scores = [_effective_number(each) for each in np.linalg.eigvalsh(kernels)]
    return Breadth(float(np.mean(scores)), float(np.std(scores, ddof=1)), size)


def vendi_score(embeddings: NDArray[np.float32]) -> float:
    """Returns the effective number of different prompts: 1 for copies of one, n for n orthogonal ones.

    The Vendi score (arXiv 2210.02410) is the exponential of the entropy of the kernel's eigenvalues.

    Args:
        embeddings: unit vectors, shape (n, d), n ≥ 1.
    """
    vectors = embeddings.astype(np.float64)
    # the d × d matrix has the same non-zero eigenvalues as the n × n kernel, and n may be a hundred thousand
    return _effective_number(np.linalg.eigvalsh(vectors.T @ vectors / len(vectors)))


def _effective_number(eigenvalues: NDArray[np.floating]) -> float:
    # rounding makes eigenvalues of zero slightly positive or negative, and the logarithm takes neither
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))
