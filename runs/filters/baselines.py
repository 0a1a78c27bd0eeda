"""The filters that RIP was compared with (arXiv 2501.18578, appendix A.5), over the same response table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.measurements import Measurements
from fittest.evo.records import Completion, Failure, Missing, Range, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.baselines.instag import Tags, difficulty, diversity, read_tags, tag_requests
from fittest.fitness.baselines.jaccard import jaccard_overlap
from fittest.fitness.baselines.likelihood import ifd, perplexity
from fittest.fitness.baselines.prompt_judge import binary_requests, binary_scores, pointwise_requests, pointwise_scores
from fittest.operators.policies import looked_up
from fittest.runs.asking import Told, asked, journal_at
from fittest.runs.filters.filter import TOO_FEW, Verdict
from fittest.runs.filters.scoring import ScoredTable
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.protocols import Backend
    from fittest.fitness.baselines.likelihood import TokenLikelihood

EVERYTHING = Range()
VLLM = "vllm:"
VLLM_TEXTS = 64
TAGGING = Sampling(temperature=0.0, top_p=1.0, max_tokens=80)
VOTING = Sampling(temperature=0.7, top_p=0.95, max_tokens=60)


@dataclass(frozen=True)
class Baseline:
    """One filter: what it measures of each prompt, and the range that is kept.

    Attributes:
        measure: a score for each prompt, NaN where it has none, shape (prompts,).
        keep: percentiles of the scores that are kept, as levels in [0, 1], unless `cut` says otherwise.
        cut: a fixed range of scores in place of percentiles.
        needs_model: whether a language model is asked.
    """

    measure: Callable[[Workbench], NDArray[np.float64]]
    keep: Range = EVERYTHING
    cut: Range | None = None
    needs_model: bool = False


@dataclass
class Workbench:
    """The prompts of a table that have metrics, and what filters need: a model, a journal of what it said, a seed.

    Args:
        scored: the responses.
        model: a name of `fittest models list`, or a GGUF file; for vLLM "vllm:" and a name, a folder or a hub name.
        journal_file: keeps replies and losses, so that nothing is asked twice.
        seed: of every draw.
        slots: sequences that the engine works on at once.
    """

    scored: ScoredTable
    model: str = "smollm2-135m"
    journal_file: Path | str = ":memory:"
    seed: int = 0
    slots: int = 12

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """Where in the table the prompts are that have metrics."""
        return np.flatnonzero(self.scored.has_metrics)

    @cached_property
    def prompts(self) -> list[str]:
        """The text of each prompt."""
        return [self.scored.prompts[position] for position in self.positions.tolist()]

    @cached_property
    def chosen(self) -> list[str | None]:
        """The chosen response of each prompt."""
        return [self.scored.chosen[position] for position in self.positions.tolist()]

    @cached_property
    def rejected(self) -> list[str | None]:
        """The rejected response of each prompt."""
        return [self.scored.rejected[position] for position in self.positions.tolist()]

    @cached_property
    def tags(self) -> list[Tags | None]:
        """Tags of each prompt by the model, None where it gave no reply."""
        return read_tags(self._ask("tags", tag_requests(self.prompts, self._seeds, TAGGING)))

    @cached_property
    def likelihood(self) -> TokenLikelihood:
        """The model's token likelihoods, kept in the journal."""
        together = VLLM_TEXTS if self.model.startswith(VLLM) else 1
        return JournalledLikelihood(_likelihood(self.model), self.journal_file, together=together)

    def votes(self, kind: str) -> NDArray[np.float64]:
        """Mean vote of the model on each prompt: "binary" or "pointwise"."""
        request, read = (
            (binary_requests, binary_scores) if kind == "binary" else (pointwise_requests, pointwise_scores)
        )
        return read(self._ask(f"{kind} votes", request(self.prompts, self._seeds, VOTING)))

    def draw(self) -> NDArray[np.float64]:
        """A number in [0, 1) for each prompt."""
        return self._seeds.generator(Stream.PAIRING).random(len(self.prompts))

    @property
    def _seeds(self) -> SeedTree:
        return SeedTree(self.seed)

    def _ask(self, what: str, requests: Sequence[Request]) -> list[Completion | Failure]:
        engine = _engine(self.model, self.slots)
        with journal_at(self.journal_file) as journal:
            return asked(what, requests, engine, journal)


class JournalledLikelihood:
    """Gives token likelihoods out of a journal, which keeps each as soon as it is known.

    Args:
        model: computes losses; one that is a context manager is left when all are known, which frees what it holds.
        journal_file: keeps losses under the model's fingerprint.
        together: the number of texts whose losses are computed at once.
    """

    def __init__(self, model: TokenLikelihood, journal_file: Path | str, *, together: int = 1) -> None:
        self._model = model
        self._journal_file = journal_file
        self._together = together

    @property
    def fingerprint(self) -> str:
        """Identifies the model."""
        return self._model.fingerprint

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns what `TokenLikelihood.losses` does."""
        given = list(zip(contexts, texts, strict=True))
        subjects = [_subject(*read) for read in given]
        with journal_at(self._journal_file) as journal:
            measurements = Measurements(journal, self.fingerprint, dict(zip(subjects, given, strict=True)))
            told = Told("likelihoods", len(measurements.wanted))

            def measure(some: Sequence[tuple[str | None, str]]) -> list[float | Missing]:
                losses = self._model.losses(*zip(*some, strict=True))
                told.step(len(some))
                return [_loss_or_missing(loss) for loss in losses.tolist()]

            with self._model if isinstance(self._model, AbstractContextManager) else nullcontext():
                known = measurements.complete_now(measure, together=self._together)
        values = (known[subject] for subject in subjects)
        return np.array([np.nan if isinstance(value, Missing) else value for value in values])


def _likelihood(model: str) -> TokenLikelihood:
    if model.startswith(VLLM):
        from fittest.fitness.baselines.vllm_likelihood import VllmLikelihood

        return VllmLikelihood(weights_of(model.removeprefix(VLLM), dtype="bfloat16"))
    from fittest.fitness.baselines.transformers_likelihood import TransformersLikelihood

    return TransformersLikelihood(weights_of(model))


def _engine(model: str, slots: int) -> Backend:
    if model.startswith(VLLM):
        from fittest.evo.backends.vllm import Vllm

        return Vllm(model=weights_of(model.removeprefix(VLLM), dtype="bfloat16"), slots=slots)
    from fittest.evo.backends.llamacpp import LlamaCpp

    return LlamaCpp(model=local_path(model), slots=slots, context=2048)


BASELINES: dict[str, Baseline] = {
    "random": Baseline(Workbench.draw),
    "jaccard": Baseline(
        lambda bench: jaccard_overlap(bench.chosen, bench.rejected),
        keep=Range(low=0.5),
    ),
    "perplexity": Baseline(
        lambda bench: perplexity(bench.likelihood, bench.prompts, bench.chosen),
        keep=Range(low=0.25),
        needs_model=True,
    ),
    "ifd": Baseline(
        lambda bench: ifd(bench.likelihood, bench.prompts, bench.chosen),
        keep=Range(low=0.25),
        needs_model=True,
    ),
    "instag-difficulty": Baseline(
        lambda bench: difficulty(bench.tags).astype(np.float64),
        cut=Range(low=1.0),
        needs_model=True,
    ),
    "instag-diversity": Baseline(
        lambda bench: diversity(bench.tags).astype(np.float64),
        cut=Range(low=1.0),
        needs_model=True,
    ),
    "prompt-judge-binary": Baseline(
        lambda bench: bench.votes("binary"),
        cut=Range(low=0.5),
        needs_model=True,
    ),
    "prompt-judge-pointwise": Baseline(
        lambda bench: bench.votes("pointwise"),
        cut=Range(low=2.5),
        needs_model=True,
    ),
}


def baseline_verdict(bench: Workbench, name: str, *, keep: Range | None = None, size: int | None = None) -> Verdict:
    """What a filter keeps of the prompts that have a chosen and a rejected response.

    Args:
        bench: the table and what filters need.
        name: of `BASELINES`.
        keep: percentiles of its score to keep, in place of its own range.
        size: keep at most so many, those with the best scores, drawn among equals; random needs it.

    Raises:
        FittestError: the model is not there.
    """
    baseline = BASELINES[name]
    scores, draws = (np.full(len(bench.scored.has_metrics), np.nan) for _ in range(2))
    scores[bench.positions], draws[bench.positions] = baseline.measure(bench), bench.draw()
    there = np.isfinite(scores)
    if keep is None and baseline.cut is not None:
        low, high = baseline.cut
    else:
        low, high = looked_up(scores[there], keep or baseline.keep)
    kept = there & (scores >= (-np.inf if low is None else low)) & (scores <= (np.inf if high is None else high))
    if size is not None:
        best = np.flatnonzero(kept)[np.lexsort((draws[kept], -scores[kept]))]
        kept[best[size:]] = False
    reasons = [
        TOO_FEW if not enough else f"no {name} score" if not measured else f"{name} score {score:.4g}"
        for enough, measured, score in zip(
            bench.scored.has_metrics.tolist(), there.tolist(), scores.tolist(), strict=True
        )
    ]
    return Verdict(kept, reasons, scores=scores, warnings=_unread(bench, name, scores))


def _unread(bench: Workbench, name: str, scores: NDArray[np.float64]) -> list[str]:
    """That a filter had nothing to go by for some prompts: no likelihood, no vote, no tag that could be read."""
    unread = np.isnan(scores[bench.positions])
    if name.startswith("instag"):
        unread |= [not tags for tags in bench.tags]
    return [f"{name}: {unread.sum()} of {len(unread)} prompts gave nothing that could be read"] if unread.any() else []


def _loss_or_missing(loss: float) -> float | Missing:
    return loss if math.isfinite(loss) else Missing("no token to predict, or too long")


def _subject(context: str | None, text: str) -> str:
    head = "none" if context is None else f"{len(context)}:{context}"
    return hashlib.sha256(f"{head}:{text}".encode()).hexdigest()
