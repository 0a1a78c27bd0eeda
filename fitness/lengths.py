"""Measures the length of a response, and takes from rewards what length explains of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LengthUnit = Callable[[str], int]
"""A length unit measures one text."""

_TOKENS = "tokens:"


def check_length_unit(name: str) -> str:
    """Returns the name if it is chars, words or tokens:MODEL.

    Args:
        name: the name of a length unit.

    Raises:
        FittestError: it is none of these.
    """
    if name in ("chars", "words") or (name.startswith(_TOKENS) and name != _TOKENS):
        return name
    raise FittestError(f"length unit {name!r}: write chars, words, or tokens:MODEL")


def length_unit(name: str, find: Callable[[str], str] = str) -> LengthUnit:
    """Returns the function by which a unit measures a text.

    Args:
        name: chars (Unicode code points), words, or tokens:MODEL with a Hugging Face name, a folder or a GGUF file.
        find: turns the name of a model into its location.

    Raises:
        FittestError: there is no such unit or tokenizer.
    """
    check_length_unit(name)
    if name == "chars":
        return len
    if name == "words":
        return _words
    from fittest.evo.pretrained.loading import load_pretrained

    tokenizer = load_pretrained("AutoTokenizer", find(name.removeprefix(_TOKENS)))

    def tokens(text: str) -> int:
        # the mark that begins a text is no part of the response
        return len(tokenizer.encode(text, add_special_tokens=False))

    return tokens


def _words(text: str) -> int:
    return len(text.split())


def residual_rewards(rewards: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns rewards without what length explains: the residuals of a least-squares line, plus the mean reward.

    Args:
        rewards: the rewards, NaN where missing, shape (responses,).
        lengths: the length of each response, shape (responses,).

    Returns:
        Residuals, shape (responses,); missing rewards stay missing and do not enter the fit.
    """
    there = np.isfinite(rewards)
    x, y = lengths[there].astype(np.float64), rewards[there]
    if not len(y):
        return rewards
    # the mean of the rewards stays, so that cuts in units of the reward keep their meaning
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ (y - y.mean())) / spread if spread else 0.0
    residuals = rewards.copy()
    residuals[there] = y - slope * centred
    return residuals
