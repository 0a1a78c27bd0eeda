"""Prepares comparisons for the search for the preference head, and measures the accuracy of each form of head."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from head_candidates import correct

if TYPE_CHECKING:
    from head_data import Answers, Comparison
    from numpy.typing import NDArray

    from fittest.fitness.rewards.head import Coefficients

ONLINE = "hh_rlhf_helpful-online_test.jsonl.gz"
REJECTION_SAMPLED = "hh_rlhf_helpful-rejection-sampled_test.jsonl.gz"
# how much accuracy on people's preferences may be given up to recognise spoiled answers
TOLERANCE = 0.005


class Trial(NamedTuple):
    """Holds one form of head and its cross-validated accuracy on each source and on all comparisons."""

    name: str
    online: float
    rejection_sampled: float
    pooled: float


class SpoiledTrial(NamedTuple):
    """Holds the cross-validated accuracies when spoiled answers have this weight in training."""

    weight: float
    preference: float
    off_topic: float
    looped: float


class Material(NamedTuple):
    """Holds the measured training comparisons under one view of the prompt; the coefficients have no weights yet."""

    comparisons: list[Comparison]
    chosen: Answers
    rejected: Answers
    coefficients: Coefficients

    @property
    def groups(self) -> list[str]:
        """Returns the group of each comparison, which must not cross a fold."""
        return [comparison.group for comparison in self.comparisons]

    @property
    def ones(self) -> NDArray[np.float64]:
        """Returns equal weights for all comparisons."""
        return np.ones(len(self.comparisons))

    @property
    def is_online(self) -> NDArray[np.bool_]:
        """Tells which comparisons are from the online part."""
        return np.array([comparison.source == ONLINE for comparison in self.comparisons])

    def differences(self, rejected: Answers | None = None) -> NDArray[np.float64]:
        """Returns standardised features of the chosen answers minus those of the rejected, or of other, answers."""
        other = self.rejected if rejected is None else rejected
        standardise = self.coefficients.standardise
        return standardise(self.chosen.features) - standardise(other.features)

    def trial(self, name: str, margins: NDArray[np.float64]) -> Trial:
        """Measures the accuracy of out-of-fold margins, shape (repeats, comparisons)."""
        met = correct(margins)
        return Trial(name, met[:, self.is_online].mean(), met[:, ~self.is_online].mean(), met.mean())


class Choice(NamedTuple):
    """Holds what is shown to the head as the prompt, and the inverse ridge penalty."""

    view: str
    strength: float
    material: Material

    @property
    def name(self) -> str:
        """Returns the choice in words."""
        return f"prompt: {self.view}, C = {self.strength}"
