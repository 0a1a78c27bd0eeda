"""Computes how much of the variance of a measurement is between what is measured, and not luck."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def intraclass(values: NDArray[np.float64]) -> float | None:
    """Returns the intraclass correlation of single draws, ICC(1) (Shrout and Fleiss, Psychological Bulletin 86, 1979).

    Args:
        values: the draws of each prompt, shape (prompts, draws), at least two of both.

    Returns:
        The share of the variance that is between prompts; it may be negative by chance, down to −1 / (draws − 1), and
        is None if all values are equal.
    """
    prompts, draws = values.shape
    means = values.mean(axis=1)
    between = draws * float(((means - means.mean()) ** 2).sum()) / (prompts - 1)
    within = float(((values - means[:, None]) ** 2).sum()) / (prompts * (draws - 1))
    total = between + (draws - 1) * within
    return (between - within) / total if total > 0 else None
