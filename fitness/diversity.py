"""How different prompts are from each other: distance to neighbours for one prompt, Vendi score for a population."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.neighbours import nearest_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NeighbourDiversity:
    """Mean cosine distance of a prompt to its k nearest neighbours in the population and the archive.

    Args:
        neighbours: k; with fewer other prompts, all of them count.
        device: torch device, or "auto".
    """

    def __init__(self, *, neighbours: int = 10, device: str = "auto") -> None:
        self.neighbours = neighbours
        self.device = device

    def __call__(self, reference: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Diversity of the prompts that stand at `rows` of `reference`.

        Args:
            reference: unit vectors of everything that passed the gates, shape (n, d).
            rows: positions in `reference`, shape (q,).

        Returns:
            Distances in [0, 2], shape (q,); NaN for a prompt that is alone.
        """
        distances = nearest_distances(
            reference[rows], reference, itself=rows, neighbours=self.neighbours, device=self.device
        ).astype(np.float64)
        found = np.isfinite(distances)
        count = found.sum(axis=1)
        total = np.where(found, distances, 0.0).sum(axis=1)
        diversity = np.full(len(rows), np.nan)
        np.divide(total, count, out=diversity, where=count > 0)
        return diversity


def vendi_score(embeddings: NDArray[np.float32]) -> float:
    """Effective number of different prompts: 1 for copies of one, n for n orthogonal ones (arXiv 2210.02410).

    Uses the d × d side of the kernel, whose non-zero eigenvalues are those of the n × n side.

    Args:
        embeddings: unit vectors, shape (n, d), n ≥ 1.
    """
    vectors = embeddings.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))
