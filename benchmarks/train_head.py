"""Trains the preference head, chooses its form by cross-validation, tests it once, and writes its card.

    OMP_NUM_THREADS=1 python benchmarks/train_head.py --cache /tmp/head-cache

It is trained on the online and rejection-sampled parts of HH-RLHF helpful. The base part and PandaLM are read after
every choice is made. The first run embeds some 45,000 texts one by one, about 20 a second; the cache spares that to
later runs. One thread, because on a busy machine the threads of so small a model mostly wait for each other.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from head_candidates import boosted_trees, correct, fit_weights, larger_forms, linear, out_of_fold
from head_card import HeldOut, render_card
from head_data import (
    VIEWS,
    CachedEmbedder,
    looped,
    measure_answers,
    off_topic,
    read_dialogues,
    read_pandalm,
    within_context,
)
from head_trials import ONLINE, REJECTION_SAMPLED, TOLERANCE, Choice, Material, SpoiledTrial, Trial

from fittest.evo.records import Missing
from fittest.fitness.embedders.minilm import MiniLM
from fittest.fitness.rewards.head import Coefficients, PreferenceHead
from fittest.runs.models import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from head_data import Comparison
    from numpy.typing import NDArray

    from fittest.evo.protocols import Embedder

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BASE = "hh_rlhf_helpful-base_test.jsonl.gz"
PANDALM = "pandalm.jsonl"
STRENGTHS = (0.001, 0.002, 0.004, 0.008, 0.016)
SPOILED_WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1)
SEED = 0


def choose_view_and_strength(data: Path, embedder: Embedder) -> tuple[list[Trial], Choice]:
    """Returns the view of the prompt and the ridge penalty with the highest cross-validated accuracy."""
    trials, choices = [], []
    for view in VIEWS:
        material = prepare(data, view, embedder)
        for strength in STRENGTHS:
            margins = out_of_fold(material.differences(), material.groups, material.ones, linear(strength))
            choices.append(Choice(view, strength, material))
            trials.append(material.trial(choices[-1].name, margins))
    best = max(range(len(trials)), key=lambda position: trials[position].pooled)
    return trials, choices[best]


def prepare(data: Path, view: str, embedder: Embedder) -> Material:
    """Reads and measure the training comparisons; equal answers teach nothing and are left out."""
    comparisons = [
        comparison
        for name in (ONLINE, REJECTION_SAMPLED)
        for comparison in within_context(read_dialogues(data / name, VIEWS[view]))
        if comparison.chosen != comparison.rejected
    ]
    prompts = [comparison.prompt for comparison in comparisons]
    chosen = measure_answers(prompts, [comparison.chosen for comparison in comparisons], embedder)
    rejected = measure_answers(prompts, [comparison.rejected for comparison in comparisons], embedder)
    features = np.vstack([chosen.features, rejected.features])
    standards = Coefficients(features.mean(axis=0), features.std(axis=0), np.zeros(features.shape[1]))
    return Material(comparisons, chosen, rejected, standards)


def try_other_forms(choice: Choice, embedder: Embedder) -> list[Trial]:
    """Measures the accuracy of smaller and larger sets of features, of other weights, and of trees."""
    material, fit = choice.material, linear(choice.strength)
    base, groups, ones, online = material.differences(), material.groups, material.ones, material.is_online
    trials = [
        material.trial(name, out_of_fold(differences, groups, ones, fit))
        for name, differences in larger_forms(material.comparisons, material.chosen, material.rejected, base, embedder)
    ]
    weights = {
        "trained on rejection-sampled alone": np.where(online, 0.0, 1.0),
        "both sources weigh the same": np.where(online, (~online).sum() / online.sum(), 1.0),
    }
    for name, weight in weights.items():
        trials.append(material.trial(name, out_of_fold(base, groups, weight, fit)))
    trials.append(material.trial("boosted trees, not linear", out_of_fold(base, groups, ones, boosted_trees)))
    return trials


def try_spoiled_weights(choice: Choice, embedder: Embedder) -> list[SpoiledTrial]:
    """Measures accuracy on people's preferences and spoiled answers if the latter have a small weight in training."""
    material = choice.material
    count = len(material.comparisons)
    trials = []
    for weight in SPOILED_WEIGHTS:
        differences, weights = with_spoiled(material, weight, embedder)
        met = correct(out_of_fold(differences, material.groups * 3, weights, linear(choice.strength)))
        preference, topic, loop = (met[:, start : start + count].mean() for start in (0, count, 2 * count))
        trials.append(SpoiledTrial(weight, preference, topic, loop))
    return trials


def with_spoiled(
    material: Material, weight: float, embedder: Embedder
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns differences and weights of people's preferences, then of off-topic and of looped answers."""
    blocks = [material.differences()]
    for spoil in (off_topic, looped):
        spoiled = spoil(material.comparisons, np.random.default_rng(SEED))
        prompts = [comparison.prompt for comparison in spoiled]
        answers = measure_answers(prompts, [comparison.rejected for comparison in spoiled], embedder)
        blocks.append(material.differences(answers))
    weights = np.repeat([1.0, weight, weight], len(material.comparisons))
    return np.vstack(blocks), weights


def choose_spoiled_weight(trials: Sequence[SpoiledTrial]) -> SpoiledTrial:
    """Returns the largest weight that costs at most `TOLERANCE` of the accuracy on people's preferences."""
    affordable = [trial for trial in trials if trial.preference >= trials[0].preference - TOLERANCE]
    return max(affordable, key=lambda trial: trial.weight)


def test(head: PreferenceHead, name: str, comparisons: Sequence[Comparison]) -> HeldOut:
    """Score comparisons that took no part in any choice; those beyond the head's context are counted, not scored."""
    read = within_context(comparisons)
    margins = np.array(margins_of(head, read))
    lengths = np.array([len(comparison.chosen) - len(comparison.rejected) for comparison in read], dtype=float)
    rng = np.random.default_rng(SEED)
    spoiled = {
        kind: float(correct(np.array(margins_of(head, spoil(read, rng)))).mean())
        for kind, spoil in (("off-topic", off_topic), ("looped", looped))
    }
    return HeldOut(name, margins, lengths, len(comparisons) - len(read), spoiled)


def margins_of(head: PreferenceHead, comparisons: Sequence[Comparison]) -> list[float]:
    """Returns the reward of the preferred answer minus the reward of the other."""
    prompts = [comparison.prompt for comparison in comparisons]
    chosen = head.score(prompts, [comparison.chosen for comparison in comparisons])
    rejected = head.score(prompts, [comparison.rejected for comparison in comparisons])
    return [
        better - worse
        for better, worse in zip(chosen, rejected, strict=True)
        if not isinstance(better, Missing) and not isinstance(worse, Missing)
    ]


def milliseconds_per_pair(head: PreferenceHead, comparisons: Sequence[Comparison]) -> float:
    """Returns the time for one prompt with one answer, without cached embeddings."""
    head.score(["warm"], ["up"])
    started = time.perf_counter()
    for comparison in comparisons:
        head.score([comparison.prompt], [comparison.chosen])
    return (time.perf_counter() - started) / len(comparisons) * 1000


def main() -> None:
    """Chooses, trains and tests the head, and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED_DATA / "judging", help="folder of the comparisons")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the embeddings between runs")
    parser.add_argument(
        "--out", type=Path, default=PreferenceHead.COEFFICIENTS.parent, help="folder of head.json and HEAD_CARD.md"
    )
    arguments = parser.parse_args()
    for name in (ONLINE, REJECTION_SAMPLED, BASE, PANDALM):
        if not (arguments.data / name).is_file():
            sys.exit(f"{arguments.data / name}: not found; --data names the folder that holds the comparisons")

    minilm = MiniLM(folder=pull("minilm"))
    embedder = CachedEmbedder(embedder=minilm, folder=arguments.cache)
    trials, choice = choose_view_and_strength(arguments.data, embedder)
    trials += try_other_forms(choice, embedder)
    spoiled_trials = try_spoiled_weights(choice, embedder)
    spoiled = choose_spoiled_weight(spoiled_trials)

    weight = fit_weights(*with_spoiled(choice.material, spoiled.weight, embedder), strength=choice.strength)
    coefficients = replace(choice.material.coefficients, weight=weight)
    coefficients.write(arguments.out / PreferenceHead.COEFFICIENTS.name, embedder=embedder.fingerprint)

    head = PreferenceHead(embedder=embedder, path=arguments.out / PreferenceHead.COEFFICIENTS.name)
    base = read_dialogues(arguments.data / BASE, VIEWS[choice.view])
    held_out = [
        test(head, "helpful-base", base),
        test(head, "PandaLM", read_pandalm(arguments.data / PANDALM)),
    ]
    uncached = PreferenceHead(embedder=minilm, path=head.path)
    card = render_card(
        choice=choice,
        trials=trials,
        spoiled_trials=spoiled_trials,
        spoiled=spoiled,
        coefficients=head.coefficients,
        held_out=held_out,
        milliseconds=milliseconds_per_pair(uncached, within_context(base)[:200]),
    )
    (arguments.out / "HEAD_CARD.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
