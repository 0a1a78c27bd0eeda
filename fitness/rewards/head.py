"""The embedded reward: a linear head over MiniLM relevance and surface features, trained on human preferences."""

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

COEFFICIENTS = Path(__file__).with_name("head.json")
CONTEXT = 4000
"""Characters of a prompt, and of a response, that the head reads; 99.9 % of its training answers are shorter."""
_MOST_DEVIATIONS = 4.0


class PreferenceHead:
    """Rewards whose difference is the log-odds that people prefer one answer to the other (Bradley–Terry).

    The card beside this file says what it was trained on and how often it agrees with people. A prompt or response
    of more than `CONTEXT` characters is missing. The cost is one embedding per response and one per distinct prompt.

    Args:
        embedder: the embedder that the coefficients were fitted with, all-MiniLM-L6-v2 for those that are shipped.
        path: coefficients as `benchmarks/train_head.py` writes them.
    """

    quick = False

    def __init__(self, *, embedder: Embedder, path: Path = COEFFICIENTS) -> None:
        self.embedder = embedder
        self.path = path

    @cached_property
    def fingerprint(self) -> str:
        """`head:`, the first 16 hex digits of the SHA-256 of the coefficients, and the embedder's fingerprint."""
        return f"head:{file_digest(self.path)[:16]}:{self.embedder.fingerprint}"

    @cached_property
    def coefficients(self) -> Coefficients:
        """The coefficients, read on first use."""
        return Coefficients.read(self.path)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Rewards in the order of the pairs; each depends on its own pair alone."""
        embed = cache(lambda text: self.embedder.embed([text])[0])
        return [self._score_pair(*pair, embed) for pair in zip(prompts, responses, strict=True)]

    def _score_pair(self, prompt: str, response: str, embed: Callable[[str], NDArray[np.float32]]) -> float | Missing:
        for name, text in (("prompt", prompt), ("response", response)):
            if len(text) > CONTEXT:
                return Missing(f"pair longer than the head's context: {name} over {CONTEXT} characters")
        relevance = exact_dot(embed(prompt), embed(response))
        standardised = self.coefficients.standardise(measure(prompt, response, relevance))
        return exact_dot(standardised, self.coefficients.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Centre, scale and weight of each feature, arrays of shape (len(FEATURES),)."""

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> Coefficients:
        """Read coefficients.

        Raises:
            FittestError: the file is for other features.
        """
        rows = json.loads(path.read_text(encoding="utf-8"))["features"]
        expected = [feature.name for feature in FEATURES]
        if list(rows) != expected:
            raise FittestError(f"{path}: found features {', '.join(rows)}; expected {', '.join(expected)}")
        return cls(*(np.array([row[key] for row in rows.values()]) for key in ("centre", "scale", "weight")))

    def write(self, path: Path, *, embedder: str) -> None:
        """Write coefficients, rounded to six decimals, with the fingerprint of the embedder they belong to."""
        rows = {
            feature.name: {"centre": round(centre, 6), "scale": round(scale, 6), "weight": round(weight, 6)}
            for feature, centre, scale, weight in zip(
                FEATURES, self.centre.tolist(), self.scale.tolist(), self.weight.tolist(), strict=True
            )
        }
        path.write_text(json.dumps({"embedder": embedder, "features": rows}, indent=1) + "\n", encoding="utf-8")

    def standardise(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Deviations from the training answers, at most four, so that no odd text carries a score away."""
        return np.clip((features - self.centre) / self.scale, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)


def exact_dot(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    """The dot product, correctly rounded, so that its bits do not depend on the order of summation."""
    return math.fsum((left.astype(np.float64) * right).tolist())
