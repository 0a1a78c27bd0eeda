"""Defines the forms of head that were tried, and computes the cross-validated accuracy of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from fittest.fitness.rewards.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from head_data import Answers, Comparison
    from numpy.typing import NDArray

    from fittest.evo.protocols import Embedder

    Fit = Callable[[NDArray[np.float64], NDArray[np.float64]], Callable[[NDArray[np.float64]], NDArray[np.float64]]]

FOLDS = 10
REPEATS = 3
SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")


def fit_weights(
    differences: NDArray[np.float64], weights: NDArray[np.float64], *, strength: float
) -> NDArray[np.float64]:
    """Fit the Bradley–Terry model, shape (features,); it has no intercept, so that swapping answers flips the sign.

    Args:
        differences: features of the preferred answer minus those of the other, shape (comparisons, features).
        weights: how much each comparison counts.
        strength: `C` of scikit-learn, the inverse of the ridge penalty.
    """
    # every second comparison is swapped, because the solver needs both classes; the optimum is the same
    signs = np.where(np.arange(len(differences)) % 2, 1.0, -1.0)
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=5000)
    model.fit(differences * signs[:, None], signs, sample_weight=weights)
    coefficients: NDArray[np.float64] = model.coef_[0]
    return coefficients


def linear(strength: float) -> Fit:
    """Returns a linear head with this inverse penalty."""

    def fit(differences: NDArray[np.float64], weights: NDArray[np.float64]) -> Callable[..., NDArray[np.float64]]:
        coefficients = fit_weights(differences, weights, strength=strength)
        return lambda unseen: unseen @ coefficients

    return fit


def boosted_trees(
    differences: NDArray[np.float64], weights: NDArray[np.float64]
) -> Callable[..., NDArray[np.float64]]:
    """Fit antisymmetric trees to the differences; they are not linear, and show what linearity costs."""
    model = HistGradientBoostingClassifier(learning_rate=0.03, max_iter=150, max_leaf_nodes=4, min_samples_leaf=40)
    labels = np.repeat([1, 0], len(differences))
    model.fit(np.vstack([differences, -differences]), labels, sample_weight=np.tile(weights, 2))

    def margins(unseen: NDArray[np.float64]) -> NDArray[np.float64]:
        margin: NDArray[np.float64] = model.decision_function(unseen) - model.decision_function(-unseen)
        return margin

    return margins


def out_of_fold(
    differences: NDArray[np.float64], groups: Sequence[str], weights: NDArray[np.float64], fit: Fit
) -> NDArray[np.float64]:
    """Returns the margin of each comparison under heads that never saw its group, shape (REPEATS, comparisons)."""
    margins = np.empty((REPEATS, len(differences)))
    for repeat in range(REPEATS):
        folds = GroupKFold(FOLDS, shuffle=True, random_state=repeat)
        for seen, unseen in folds.split(differences, groups=groups):
            margins[repeat, unseen] = fit(differences[seen], weights[seen])(differences[unseen])
    return margins


def correct(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns 1 for each preference that is predicted, and one half for a tie."""
    return np.where(margins == 0, 0.5, margins > 0)


def larger_forms(
    comparisons: Sequence[Comparison],
    chosen: Answers,
    rejected: Answers,
    base: NDArray[np.float64],
    embedder: Embedder,
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yields smaller and larger sets of features than the shipped one: a name and the differences of each comparison.

    Args:
        comparisons: the training comparisons.
        chosen: the preferred answers.
        rejected: the others.
        base: standardised differences of the shipped features.
        embedder: embeds single sentences.
    """
    names = [feature.name for feature in FEATURES]
    topic = [names.index("relevance"), names.index("off_topic")]
    yield "log_words alone", base[:, [names.index("log_words")]]
    yield "relevance and off_topic alone", base[:, topic]
    yield "without relevance and off_topic", np.delete(base, topic, axis=1)
    root = chosen.response.shape[1] ** 0.5
    blocks = {
        "embedding of the response": (chosen.response - rejected.response) * root,
        "product of the two embeddings": chosen.prompt * (chosen.response - rejected.response) * root**2,
        "distance of the two embeddings, by dimension": (
            abs(chosen.prompt - chosen.response) - abs(rejected.prompt - rejected.response)
        )
        * root,
        "embedding of the first sentence": _sentence_difference(comparisons, embedder, 0) * root,
        "embedding of the last sentence": _sentence_difference(comparisons, embedder, -1) * root,
        "16 principal components of the response": _components(chosen, rejected, 16),
        "4,096 hashed words and word pairs": _hashed_words(comparisons),
        "features × 8 principal components of the prompt": _interactions(base, chosen.prompt, 8),
    }
    for name, block in blocks.items():
        for scale in (0.1, 0.3):
            yield f"+ {name}, scaled by {scale}", np.hstack([base, block * scale])


def _sentence_difference(comparisons: Sequence[Comparison], embedder: Embedder, position: int) -> NDArray[np.float32]:
    def sentence(text: str) -> str:
        return ([part for part in SENTENCE.split(text) if part.strip()] or [""])[position]

    preferred = embedder.embed([sentence(comparison.chosen) for comparison in comparisons])
    return preferred - embedder.embed([sentence(comparison.rejected) for comparison in comparisons])


def _components(chosen: Answers, rejected: Answers, count: int) -> NDArray[np.float64]:
    projection = PCA(count, whiten=True, random_state=0).fit(np.vstack([chosen.response, rejected.response]))
    components: NDArray[np.float64] = projection.transform(chosen.response) - projection.transform(rejected.response)
    return components


def _hashed_words(comparisons: Sequence[Comparison]) -> NDArray[np.float64]:
    hashing = HashingVectorizer(
        n_features=4096, ngram_range=(1, 2), binary=True, norm=None, token_pattern=r"\w+|[^\w\s]"
    )
    preferred = hashing.transform([comparison.chosen for comparison in comparisons])
    difference: NDArray[np.float64] = (
        preferred - hashing.transform([comparison.rejected for comparison in comparisons])
    ).toarray()
    return difference


def _interactions(base: NDArray[np.float64], prompts: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    components = PCA(count, whiten=True, random_state=0).fit_transform(prompts)
    product: NDArray[np.float64] = (base[:, :, None] * components[:, None, :]).reshape(len(base), -1)
    return product
