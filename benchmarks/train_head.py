"""Train the preference head, choose its form by cross-validation, test it once, and write its card.

    python benchmarks/train_head.py --cache /tmp/head-cache

Trained on the online and rejection-sampled parts of HH-RLHF helpful. The base part and PandaLM are read after every
choice is made. The first run embeds some 35,000 texts one by one, ten minutes on an idle two-core machine; with the
cache a run takes about four minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from head_candidates import FOLDS, REPEATS, boosted_trees, correct, fit_weights, larger_forms, linear, out_of_fold
from head_card import HeldOut, write_card
from head_data import (
    VIEWS,
    Answers,
    CachedEmbedder,
    Comparison,
    looped,
    measure_answers,
    off_topic,
    read_dialogues,
    read_pandalm,
    within_context,
)

from evo.records import Missing
from fitness.embedders.minilm import MiniLM
from fitness.rewards.head import COEFFICIENTS, Coefficients, PreferenceHead
from runs.models import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evo.protocols import Embedder

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ONLINE = "hh_rlhf_helpful-online_test.jsonl.gz"
REJECTION_SAMPLED = "hh_rlhf_helpful-rejection-sampled_test.jsonl.gz"
BASE = "hh_rlhf_helpful-base_test.jsonl.gz"
PANDALM = "pandalm.jsonl"
STRENGTHS = (0.001, 0.002, 0.004, 0.008, 0.016)
SPOILED_WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1)
# accuracy on people's preferences that may be given up for telling spoiled answers
TOLERANCE = 0.005


class Trial(NamedTuple):
    """One form of head and its cross-validated accuracy on each source and on all comparisons."""

    name: str
    online: float
    rejection_sampled: float
    pooled: float


class Material(NamedTuple):
    """The training comparisons under one view of the prompt, measured and standardised."""

    comparisons: list[Comparison]
    chosen: Answers
    rejected: Answers
    coefficients: Coefficients

    @property
    def groups(self) -> list[str]:
        """What must not cross a fold."""
        return [comparison.group for comparison in self.comparisons]

    @property
    def ones(self) -> NDArray[np.float64]:
        """Every comparison counts the same."""
        return np.ones(len(self.comparisons))

    @property
    def is_online(self) -> NDArray[np.bool_]:
        """Which comparisons are from the online part."""
        return np.array([comparison.source == ONLINE for comparison in self.comparisons])

    def differences(self, rejected: Answers | None = None) -> NDArray[np.float64]:
        """Standardised differences of the chosen answers and the rejected, or other, answers."""
        other = self.rejected if rejected is None else rejected
        standardise = self.coefficients.standardise
        return standardise(self.chosen.features) - standardise(other.features)

    def trial(self, name: str, margins: NDArray[np.float64]) -> Trial:
        """Accuracy of out-of-fold margins, shape (REPEATS, comparisons)."""
        met = correct(margins)
        return Trial(name, met[:, self.is_online].mean(), met[:, ~self.is_online].mean(), met.mean())


def main() -> None:
    """Choose, train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED_DATA / "judging", help="folder of the comparisons")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the embeddings between runs")
    parser.add_argument("--out", type=Path, default=COEFFICIENTS.parent, help="folder of head.json and HEAD_CARD.md")
    arguments = parser.parse_args()
    for name in (ONLINE, REJECTION_SAMPLED, BASE, PANDALM):
        if not (arguments.data / name).is_file():
            sys.exit(f"{arguments.data / name}: not found; --data names the folder that holds the comparisons")

    minilm = MiniLM(folder=pull("minilm"))
    embedder = CachedEmbedder(embedder=minilm, folder=arguments.cache)
    trials, view, strength, material = choose_view_and_strength(arguments.data, embedder)
    trials += try_other_forms(material, strength, embedder)
    report(trials)
    spoiled = [spoil(material, kind, embedder) for kind in (off_topic, looped)]
    spoiled_trials, spoiled_weight = choose_spoiled_weight(material, spoiled, strength)

    weight = fit_weights(*stack(material, spoiled, spoiled_weight), strength=strength)
    path = arguments.out / COEFFICIENTS.name
    material.coefficients.with_weight(weight).write(path, embedder=embedder.fingerprint)
    head = PreferenceHead(embedder=embedder, path=path)
