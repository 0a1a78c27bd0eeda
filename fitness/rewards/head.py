"""Provides the embedded reward: a linear head over MiniLM relevance and surface features.

It is trained on human preferences; the card beside this file (HEAD_CARD.md) says on which, and how often it agrees.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import file_digest
from fittest.evo.records import Missing
from fittest.fitness.rewards.features import FEATURES, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fittest.evo.protocols import Embedder

# the coefficients were trained with features clipped here, so both change together
_MOST_DEVIATIONS = 4.0


class PreferenceHead:
    """Gives rewards whose difference is the log-odds that people prefer one answer to the other (Bradley–Terry).

    If the prompt or the response has more than `CONTEXT` characters, the reward is missing. The cost is one embedding
    for each response and one for each distinct prompt.

    Attributes:
        COEFFICIENTS: those that are shipped.
        CONTEXT: the head reads this many characters of a prompt and of a response; 99.9 % of its training answers are
            shorter.

    Args:
        embedder: the embedder that the coefficients were fitted with, all-MiniLM-L6-v2 for those that are shipped.
        path: the coefficients, as `benchmarks/train_head.py` writes them.
    """

    COEFFICIENTS = Path(__file__).with_name("head.json")
    CONTEXT = 4000

    quick = False

    def __init__(self, *, embedder: Embedder, path: Path = COEFFICIENTS) -> None:
        self.embedder = embedder
        self.path = path

    @cached_property
    def fingerprint(self) -> str:
        """Joins `head:`, 16 hex digits of the SHA-256 of the coefficients, and the embedder's fingerprint."""
        return f"head:{file_digest(self.path)[:16]}:{self.embedder.fingerprint}"

    @cached_property
    def coefficients(self) -> Coefficients:
        """Returns the coefficients, which are read on first use."""
        return Coefficients.read(self.path)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns rewards in the order of the responses; each depends on its own prompt and response alone."""
        # one text per call, since the other texts of a batch could change the last bits of an embedding
        embed = cache(lambda text: self.embedder.embed([text])[0])
        return [self._score_one(*row, embed) for row in zip(prompts, responses, strict=True)]

    def _score_one(self, prompt: str, response: str, embed: Callable[[str], NDArray[np.float32]]) -> float | Missing:
        for name, text in (("prompt", prompt), ("response", response)):
            if len(text) > self.CONTEXT:
                return Missing(f"pair longer than the head's context: {name} over {self.CONTEXT} characters")
        relevance = exact_dot(embed(prompt), embed(response))
        standardised = self.coefficients.standardise(measure(prompt, response, relevance))
        return exact_dot(standardised, self.coefficients.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Holds centre, scale and weight of each feature, each an array of shape (len(FEATURES),)."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> Coefficients:
        """Reads coefficients from a file.

        Args:
            path: a file that `write` has written.

        Raises:
            FittestError: the file is for other features.
        """
        rows = json.loads(path.read_text(encoding="utf-8"))["features"]
        expected = [feature.name for feature in FEATURES]
        if list(rows) != expected:
            raise FittestError(f"{path}: found features {', '.join(rows)}; expected {', '.join(expected)}")
        return cls(*(np.array([row[key] for row in rows.values()]) for key in ("centre", "scale", "weight")))

    def write(self, path: Path, *, embedder: str) -> None:
        """Writes the coefficients, rounded to six decimals, with the fingerprint of the embedder they belong to."""
        rows = {
            feature.name: {"centre": round(centre, 6), "scale": round(scale, 6), "weight": round(weight, 6)}
            for feature, centre, scale, weight in zip(
                FEATURES, self.centre.tolist(), self.scale.tolist(), self.weight.tolist(), strict=True
            )
        }
        path.write_text(json.dumps({"embedder": embedder, "features": rows}, indent=1) + "\n", encoding="utf-8")

    def standardise(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns deviations from the training answers, clipped at four, so that no unusual text dominates a score."""
        return np.clip((features - self.centre) / self.scale, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)


def exact_dot(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    """Returns the dot product, correctly rounded, so that its bits do not depend on the order of summation."""
    return math.fsum((left.astype(np.float64) * right).tolist())
