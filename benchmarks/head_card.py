"""Writes the card of the preference head; `train_head.py` has just measured every figure in it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from head_candidates import FOLDS, REPEATS, correct
from head_trials import TOLERANCE

from fittest.fitness.rewards.features import FEATURES
from fittest.fitness.rewards.head import PreferenceHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from head_trials import Choice, SpoiledTrial, Trial
    from numpy.typing import NDArray

    from fittest.fitness.rewards.head import Coefficients

RESAMPLES = 10_000
_CONTEXT = PreferenceHead.CONTEXT
PACKAGES = ("scikit-learn", "sentence-transformers", "torch")


class HeldOut(NamedTuple):
    """Holds margins of the head and of length, one for each comparison; none of these took part in any choice.

    `missing` counts comparisons beyond the head's context; `spoiled` is the accuracy on each kind of spoiled answer.
    """

    name: str
    margins: NDArray[np.float64]
    lengths: NDArray[np.float64]
    missing: int
    spoiled: dict[str, float]


def render_card(
    *,
    choice: Choice,
    trials: Sequence[Trial],
    spoiled_trials: Sequence[SpoiledTrial],
    spoiled: SpoiledTrial,
    coefficients: Coefficients,
    held_out: Sequence[HeldOut],
    milliseconds: float,
) -> str:
    """Returns the card as Markdown."""
    material = choice.material
    count = len(material.comparisons)
    online = int(material.is_online.sum())
    shipped, *others = sorted(trials, key=lambda trial: trial.name != choice.name)
    best = max(others, key=lambda trial: trial.pooled)
    return f"""# Preference head

Reward of the embedded default: how much people would like `response` as an answer to `prompt`. A linear head over
{len(FEATURES)} features, two of them the relevance that all-MiniLM-L6-v2 sees. The difference of two rewards of one
prompt is the log-odds that people prefer the first answer (Bradley–Terry). Written by

    python benchmarks/train_head.py --cache DIR

with {", ".join(f"{package} {version(package)}" for package in PACKAGES)}.

## Agreement with people

Share of comparisons in which the answer that people preferred has the higher reward, ties one half, with 95 %
bootstrap intervals ({RESAMPLES:,} resamples). Length alone prefers the answer with more characters.

{_held_out_table(held_out)}

Both sets were scored once, after every choice. The last two columns are not people's verdicts: a good answer against
an answer to something else, and against its own opening words said over and over.

## Data

- Trained on HH-RLHF (MIT), test split of the helpful part: {online:,} comparisons of `online` and
  {count - online:,} of `rejection-sampled`, without those of equal answers or of more than {_CONTEXT:,} characters.
  Besides, each chosen answer against an off-topic and a looped one, at a weight of {spoiled.weight}.
- Tested on HH-RLHF helpful-base (MIT), test split, and on PandaLM (Apache-2.0) where its three votes have a
  majority for one answer.
- None of this data is in this package; the coefficients are.

## How it was chosen

{FOLDS}-fold cross-validation, repeated {REPEATS} times, on the two training files alone; comparisons with the same
first turn stay in one fold. C is the inverse ridge penalty. The standard error of an accuracy over {count:,}
comparisons is {0.5 / count**0.5:.1%}: forms closer than that cannot be told apart. Shipped: {choice.name}.
The best of the others ({best.name}) has {best.pooled - shipped.pooled:+.1%}.

{_trial_table(shipped, others)}

Spoiled answers were then given the largest weight that costs at most {TOLERANCE:.1%} of accuracy on people's
preferences:

{_spoiled_table(spoiled_trials, spoiled)}

## Features

A weight belongs to the standardised feature: deviations from the training answers, clipped at four.

{_feature_table(coefficients)}

## Limits

- It sees surface and topic, not truth: a fluent falsehood scores as well as the truth.
- Rewards compare answers to one prompt. Between prompts they compare relevance and surface, nothing more.
- Length still counts: on helpful-base it is right in {_accuracy_where(held_out[0].lengths > 0, held_out[0])} of the
  comparisons where people prefer the longer answer, and in {_accuracy_where(held_out[0].lengths < 0, held_out[0])}
  where they prefer the shorter.
- English. It was trained on answers of assistants far larger than the embedded model.
- MiniLM reads the first 256 word pieces of a text, so relevance judges the opening; all else is measured on the whole.
  A prompt or response of more than {_CONTEXT:,} characters is missing, never scored low.
- One prompt with one answer took {milliseconds:.0f} ms on the CPU when this card was written; a further answer to the
  same prompt about half of that.
"""


def _held_out_table(held_out: Sequence[HeldOut]) -> str:
    rows = []
    for one in held_out:
        head, length = correct(one.margins), correct(one.lengths)
        cells = [one.name, f"{len(head):,}", str(one.missing)]
        cells += [_with_interval(values) for values in (head, length, head - length)]
        cells += [f"{share:.1%}" for share in one.spoiled.values()]
        rows.append(cells)
    titles = ["set", "comparisons", "missing", "head", "length alone", "head − length", "not off-topic", "not looped"]
    return _table(titles, rows)


def _with_interval(values: NDArray[np.float64]) -> str:
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.1%} ({low:.1%} to {high:.1%})"


def _accuracy_where(selected: NDArray[np.bool_], one: HeldOut) -> str:
    return f"{correct(one.margins)[selected].mean():.1%}"


def _trial_table(shipped: Trial, others: Sequence[Trial]) -> str:
    rows = [
        [name, f"{trial.online:.1%}", f"{trial.rejection_sampled:.1%}", f"{trial.pooled:.1%}"]
        for name, trial in [(f"**{shipped.name}**", shipped), *((other.name, other) for other in others)]
    ]
    return _table(["form", "online", "rejection-sampled", "both"], rows)


def _spoiled_table(trials: Sequence[SpoiledTrial], chosen: SpoiledTrial) -> str:
    rows = [
        [
            f"**{trial.weight}**" if trial is chosen else f"{trial.weight}",
            f"{trial.preference:.1%}",
            f"{trial.off_topic:.1%}",
            f"{trial.looped:.1%}",
        ]
        for trial in trials
    ]
    return _table(["weight", "people's preferences", "not off-topic", "not looped"], rows)


def _feature_table(coefficients: Coefficients) -> str:
    rows = [
        [f"`{feature.name}`", feature.why, f"{weight:+.3f}"]
        for feature, weight in zip(FEATURES, coefficients.weight.tolist(), strict=True)
    ]
    return _table(["feature", "why", "weight"], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
