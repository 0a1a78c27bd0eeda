"""Applies the filters that RIP was compared with (arXiv 2501.18578, appendix A.5) to a response table."""

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
from fittest.fitness.baselines.instag import difficulty, diversity, read_tags, tag_requests
from fittest.fitness.baselines.jaccard import jaccard_overlap
from fittest.fitness.baselines.likelihood import ifd, perplexity
from fittest.fitness.baselines.prompt_judge import BINARY, POINTWISE
from fittest.operators.policies import looked_up
from fittest.runs.asking import ProgressLine, asked, journal_at
from fittest.runs.filters.filtered import TOO_FEW, Filtered
from fittest.runs.filters.scoring import ScoredTable
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.protocols import Backend
    from fittest.fitness.baselines.likelihood import TokenLikelihood

_EVERYTHING = Range()

_VLLM = "vllm:"
"""The prefix of a model that runs in vLLM."""

_VLLM_TEXTS = 64
"""How many texts vLLM reads in one call; a kill loses at most the likelihoods of one call."""

_TAGGING = Sampling(temperature=0.0, top_p=1.0, max_tokens=80)
_VOTING = Sampling(temperature=0.7, top_p=0.95, max_tokens=60)


@dataclass(frozen=True)
class _Baseline:
    """Describes one filter: what it measures of each prompt, and which scores it keeps.

    Attributes:
        measure: computes a score for each prompt, shape (prompts,); NaN for a prompt that has none.
        keep: the percentiles of the scores that are kept, as levels in [0, 1]; `cut` takes their place.
        cut: a fixed range of scores that are kept.
        needs_model: whether the filter asks a language model.
    """

    measure: Callable[[Workbench], NDArray[np.float64]]
    keep: Range = _EVERYTHING
    cut: Range | None = None
    needs_model: bool = False


@dataclass
class Workbench:
    """Holds the prompts that have metrics, and what filters need for them: a model, its journal, and a seed.

    Args:
        scored: the responses with their metrics.
        model: a name of `fittest models list`, or a GGUF file; for vLLM "vllm:" and a name, a folder or a hub name.
        journal_file: keeps replies and losses, so that nothing is asked twice.
        seed: the seed of every draw.
        slots: how many sequences the engine decodes at once.
    """

    scored: ScoredTable
    model: str = "smollm2-135m"
    journal_file: Path | str = ":memory:"
    seed: int = 0
    slots: int = 12

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """Returns the places of these prompts among all prompts of the table."""
        return np.flatnonzero(self.scored.has_metrics)

    @cached_property
    def prompts(self) -> list[str]:
        """Returns the text of each prompt."""
        return [self.scored.prompts[position] for position in self.positions.tolist()]

    @cached_property
    def chosen(self) -> list[str | None]:
        """Returns the chosen response of each prompt."""
        return [self.scored.chosen[position] for position in self.positions.tolist()]

    @cached_property
    def rejected(self) -> list[str | None]:
        """Returns the rejected response of each prompt."""
        return [self.scored.rejected[position] for position in self.positions.tolist()]

    @cached_property
    def tags(self) -> list[tuple[str, ...] | None]:
        """Returns the tags that the model gives each prompt; None for a prompt without a reply."""
        return read_tags(self._ask("tags", tag_requests(self.prompts, self._seeds, _TAGGING)))

    @cached_property
    def likelihood(self) -> TokenLikelihood:
        """Returns the model's token likelihoods; the journal keeps what they computed."""
        together = _VLLM_TEXTS if self.model.startswith(_VLLM) else 1
        return JournalledLikelihood(_likelihood(self.model), self.journal_file, together=together)

    def votes(self, kind: str) -> NDArray[np.float64]:
        """Returns the model's mean vote on each prompt; `kind` is "binary" or "pointwise"."""
        judge = BINARY if kind == "binary" else POINTWISE
        return judge.scores(self._ask(f"{kind} votes", judge.requests(self.prompts, self._seeds, _VOTING)))

    def draw(self) -> NDArray[np.float64]:
        """Draws a number in [0, 1) for each prompt; every call returns the same numbers."""
        return self._seeds.generator(Stream.PAIRING).random(len(self.prompts))

    @property
    def _seeds(self) -> SeedTree:
        return SeedTree(self.seed)

    def _ask(self, what: str, requests: Sequence[Request]) -> list[Completion | Failure]:
        engine = _engine(self.model, self.slots)
        with journal_at(self.journal_file) as journal:
            return asked(what, requests, engine, journal)


class JournalledLikelihood:
    """Computes token likelihoods and keeps each one at once, under the model's fingerprint.

    Args:
        model: computes the likelihoods; if it is a context manager, it is left when all are known, which frees it.
        journal_file: the journal that keeps them.
        together: how many texts the model gets in one call.
    """

    def __init__(self, model: TokenLikelihood, journal_file: Path | str, *, together: int = 1) -> None:
        self._model = model
        self._journal_file = journal_file
        self._together = together

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the model."""
        return self._model.fingerprint

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the losses of the texts as `TokenLikelihood.losses` does; only unknown ones are computed."""
        given = list(zip(contexts, texts, strict=True))
        subjects = [_subject(*read) for read in given]
        with journal_at(self._journal_file) as journal:
            measurements = Measurements(journal, self.fingerprint, dict(zip(subjects, given, strict=True)))
            progress = ProgressLine("likelihoods", len(measurements.wanted))

            def measure(some: Sequence[tuple[str | None, str]]) -> list[float | Missing]:
                losses = self._model.losses(*zip(*some, strict=True))
                progress.step(len(some))
                return [_loss_or_missing(loss) for loss in losses.tolist()]

            with self._model if isinstance(self._model, AbstractContextManager) else nullcontext():
                known = measurements.complete_now(measure, together=self._together)
        values = (known[subject] for subject in subjects)
        return np.array([np.nan if isinstance(value, Missing) else value for value in values])


def _likelihood(model: str) -> TokenLikelihood:
    if model.startswith(_VLLM):
        from fittest.fitness.baselines.vllm_likelihood import VllmLikelihood

        return VllmLikelihood(weights_of(model.removeprefix(_VLLM), dtype="bfloat16"))
    # llama.cpp's server gives no likelihoods of a given text, so a GGUF file is converted for transformers
    from fittest.fitness.baselines.transformers_likelihood import TransformersLikelihood

    return TransformersLikelihood(weights_of(model))


def _engine(model: str, slots: int) -> Backend:
    if model.startswith(_VLLM):
        from fittest.evo.backends.vllm import Vllm

        return Vllm(model=weights_of(model.removeprefix(_VLLM), dtype="bfloat16"), slots=slots)
    from fittest.evo.backends.llamacpp import LlamaCpp

    return LlamaCpp(model=local_path(model), slots=slots, context=2048)


BASELINES: dict[str, _Baseline] = {
    "random": _Baseline(Workbench.draw),
    "jaccard": _Baseline(
        lambda bench: jaccard_overlap(bench.chosen, bench.rejected),
        keep=Range(low=0.5),
    ),
    "perplexity": _Baseline(
        lambda bench: perplexity(bench.likelihood, bench.prompts, bench.chosen),
        keep=Range(low=0.25),
        needs_model=True,
    ),
    "ifd": _Baseline(
        lambda bench: ifd(bench.likelihood, bench.prompts, bench.chosen),
        keep=Range(low=0.25),
        needs_model=True,
    ),
    "instag-difficulty": _Baseline(
        lambda bench: difficulty(bench.tags).astype(np.float64),
        cut=Range(low=1.0),
        needs_model=True,
    ),
    "instag-diversity": _Baseline(
        lambda bench: diversity(bench.tags).astype(np.float64),
        cut=Range(low=1.0),
        needs_model=True,
    ),
    "prompt-judge-binary": _Baseline(
        lambda bench: bench.votes("binary"),
        cut=Range(low=0.5),
        needs_model=True,
    ),
    "prompt-judge-pointwise": _Baseline(
        lambda bench: bench.votes("pointwise"),
        # the paper gives no cut; this is the middle of the scale from 0 to 5
        cut=Range(low=2.5),
        needs_model=True,
    ),
}


def filter_by_baseline(bench: Workbench, name: str, *, keep: Range | None = None, size: int | None = None) -> Filtered:
    """Applies one of the filters that RIP was compared with; a prompt without metrics is never kept.

    Args:
        bench: the table and what filters need.
        name: a name in `BASELINES`.
        keep: the percentiles of the score to keep, as levels in [0, 1], in place of the filter's own range.
        size: how many prompts to keep at most: those with the best scores, and a draw decides between equal
            scores. The filter "random" needs it.

    Raises:
        FittestError: the model cannot be found.
    """
    baseline = BASELINES[name]
    scores, draws = (np.full(len(bench.scored.has_metrics), np.nan) for _ in range(2))
    scores[bench.positions], draws[bench.positions] = baseline.measure(bench), bench.draw()
    there = np.isfinite(scores)
    # percentiles that the user asks for take the place of a fixed cut, too
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
    return Filtered(kept, reasons, scores=scores, warnings=_unread(bench, name, scores))


def _unread(bench: Workbench, name: str, scores: NDArray[np.float64]) -> list[str]:
    """Warns when some prompts have no likelihood, vote or tag that could be read."""
    unread = np.isnan(scores[bench.positions])
    # a prompt without tags still has a score there: it counts as having none
    if name.startswith("instag"):
        unread |= [not tags for tags in bench.tags]
    return [f"{name}: {unread.sum()} of {len(unread)} prompts gave nothing that could be read"] if unread.any() else []


def _loss_or_missing(loss: float) -> float | Missing:
    return loss if math.isfinite(loss) else Missing("no token to predict, or too long")


def _subject(context: str | None, text: str) -> str:
    head = "none" if context is None else f"{len(context)}:{context}"
    return hashlib.sha256(f"{head}:{text}".encode()).hexdigest()
