"""Computes how much of the variance of a measurement is between prompts, and not luck."""

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
    between, within = mean_squares(values)
    return share_between(float(between), float(within), draws=values.shape[1])


def mean_squares(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean squares between and within prompts, both of shape (...).

    Args:
        values: the draws of each prompt, shape (prompts, draws, ...), at least two of both.
    """
    prompts, draws = values.shape[:2]
    means = values.mean(axis=1, keepdims=True)
    between = draws * ((means - means.mean(axis=0)) ** 2).sum(axis=(0, 1)) / (prompts - 1)
    within = ((values - means) ** 2).sum(axis=(0, 1)) / (prompts * (draws - 1))
    return between, within


def share_between(between: float, within: float, *, draws: int = 2) -> float | None:
    """Returns the intraclass correlation from mean squares; None if all values are equal.

    Args:
        between: the mean square between prompts.
        within: the mean square within prompts.
        draws: the number of draws of each prompt.
    """
    total = between + (draws - 1) * within
    return (between - within) / total if total > 0 else None
