"""Measures how different prompts are: by the distance to neighbours for one, by the Vendi score for a population."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.neighbours import NearestSoFar

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


def vendi_score(embeddings: NDArray[np.float32]) -> float:
    """Returns the effective number of different prompts: 1 for copies of one, n for n orthogonal ones.

    The Vendi score (arXiv 2210.02410) is the exponential of the entropy of the kernel's eigenvalues.

    Args:
        embeddings: unit vectors, shape (n, d), n ≥ 1.
    """
    vectors = embeddings.astype(np.float64)
    # the d × d matrix has the same non-zero eigenvalues as the n × n kernel, and n may be a hundred thousand
    eigenvalues = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    # rounding makes eigenvalues of zero slightly positive or negative, and the logarithm takes neither
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))
