"""Measures the word overlap of chosen and rejected response; the filter drops prompts where it is low."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


def jaccard_overlap(chosen: Sequence[str | None], rejected: Sequence[str | None]) -> NDArray[np.float64]:
    """Returns the Jaccard index of the two responses' sets of lower-cased words (arXiv 2501.18578, appendix A.5).

    Args:
        chosen: the best response of each prompt, None where it is missing, shape (prompts,).
        rejected: the worst response of each prompt, None where it is missing, shape (prompts,).

    Returns:
        Shared words over all words, in [0, 1], shape (prompts,); NaN where a response is None, 1 where neither
        response has a word.
    """
    return np.array([_overlap(*responses) for responses in zip(chosen, rejected, strict=True)], dtype=np.float64)


def _overlap(chosen: str | None, rejected: str | None) -> float:
    if chosen is None or rejected is None:
        return np.nan
    left, right = _words(chosen), _words(rejected)
    return len(left & right) / len(left | right) if left or right else 1.0


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
