"""Computes how far a share that was counted may be from the true one."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # the normal quantile of a two-sided interval of 95 %


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a proportion (E. B. Wilson, JASA 22, 1927), both ends in [0, 1].

    Args:
        share: the share of successes.
        trials: the number of independent trials, above 0; for trials that depend on each other, their effective
            number, which need not be whole.
    """
    # unlike the normal interval, it is sound for few trials and for shares near 0 and 1
    centre = (share + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z / (1 + _Z**2 / trials) * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
