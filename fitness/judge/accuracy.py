"""Measures how often a judge is right: in each order, on average, and in both orders at once, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fittest.fitness.intervals import wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.fitness.judge.pair import Pair
    from fittest.fitness.judge.verdict import Verdicts

Figures = dict[str, float | int | None]
"""Figures are named numbers; None stands for one that is not defined."""

_RESAMPLES = 2_000
_ALL = "all"


def accuracy(pairs: Sequence[Pair], verdicts: Sequence[Verdicts], *, seed: int = 0) -> Figures:
    """Computes pairwise accuracy in per cent.

    A pair without a verdict counts as wrong, so that a judge cannot gain by giving none.

    Args:
        pairs: the pairs, each with a label.
        verdicts: the verdicts on each pair, in the same order.
        seed: the seed of the bootstrap.

    Returns:
        `ab` and `ba` are the accuracy with the answers as recorded, and swapped; `mean` is the mean of the two, and
        `consistent` the share that is right in both orders. Each has `_low` and `_high`, the ends of a 95 % interval:
        Wilson's, and for the mean, whose orders are not independent, a percentile bootstrap over pairs. `chose_first`
        is the share of the given verdicts that name the answer shown first, or None if none was given. `unread_ab`
        and `unread_ba` count pairs without a verdict, `n` counts pairs. If verdicts have margins, `averaged`, with its
        ends, is the accuracy of their signs.

    Raises:
        ValueError: there are no pairs, or one of them has no label.
    """
    if not pairs or any(pair.label is None for pair in pairs):
        raise ValueError("accuracy needs pairs, and a label on each of them")
    both = [(verdict.ab, verdict.ba) for verdict in verdicts]
    expected = [(pair.expected("AB"), pair.expected("BA")) for pair in pairs]
    right: NDArray[np.bool_] = np.array(
        [[said == due for said, due in zip(*row, strict=True)] for row in zip(both, expected, strict=True)], dtype=bool
    )
    margins = [verdict.margin for verdict in verdicts]
    averaged = [
        margin is not None and (margin > 0, margin < 0) == (pair.label == "A", pair.label == "B")
        for pair, margin in zip(pairs, margins, strict=True)
    ]
    given = [side for row in both for side in row if side is not None]
    return {
        **_share("ab", right[:, 0]),
        **_share("ba", right[:, 1]),
        "mean": float(100 * right.mean()),
        **_bootstrap("mean", right.mean(axis=1), seed),
        **_share("consistent", right[:, 0] & right[:, 1]),
        **({} if margins.count(None) == len(pairs) else _share("averaged", np.array(averaged, dtype=bool))),
        "chose_first": 100 * given.count("A") / len(given) if given else None,
        "unread_ab": sum(ab is None for ab, _ in both),
        "unread_ba": sum(ba is None for _, ba in both),
        "n": len(pairs),
    }


def accuracy_by_subset(pairs: Sequence[Pair], verdicts: Sequence[Verdicts], *, seed: int = 0) -> dict[str, Figures]:
    """Computes the `accuracy` of each subset in order of appearance, then of `all` of them together."""
    judged = list(zip(pairs, verdicts, strict=True))
    names = [name for name in dict.fromkeys(pair.subset for pair in pairs) if name not in ("", _ALL)]
    groups = {name: [row for row in judged if row[0].subset == name] for name in names} | {_ALL: judged}
    return {
        name: accuracy([pair for pair, _ in rows], [verdict for _, verdict in rows], seed=seed)
        for name, rows in groups.items()
    }


def _share(name: str, right: NDArray[np.bool_]) -> Figures:
    low, high = wilson(float(right.mean()), len(right))
    return {name: float(100 * right.mean()), f"{name}_low": 100 * low, f"{name}_high": 100 * high}


def _bootstrap(name: str, values: NDArray[np.float64], seed: int) -> Figures:
    # pairs are drawn and not orders: the two judgments of a pair are not independent
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {f"{name}_low": float(100 * low), f"{name}_high": float(100 * high)}
