"""From the engine of a run to a model that says how likely its answers were, for trainers that compare with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.measurements import Measurements
from fittest.evo.records import Missing
from fittest.fitness.reference.pairs import AnsweredPair, PairLogProbabilities
from fittest.runs.asking import ProgressLine, journal_at
from fittest.runs.config.engine import LlamaCppSection, OpenAISection, TransformersSection, VllmSection
from fittest.runs.models import weights_of
from fittest.runs.output.folder import RunFolder

if TYPE_CHECKING:
    from fittest.fitness.reference.pairs import ReferenceModel
    from fittest.runs.config.engine import EngineSection

_TOO_LONG = Missing("too long for the model")
_PAIRS_TOGETHER = 64
"""How many pairs a server or vLLM gets at once; a kill loses at most the numbers of so many."""


def reference_of(folder: Path) -> ReferenceModel:
    """Returns the model that answered in a run, as one that gives log-probabilities and keeps them in the folder.

    Args:
        folder: the folder of a run.

    Raises:
        FittestError: the folder holds no run, or its engine gives no log-probabilities.
    """
    run = RunFolder(folder)
    if not run.exists:
        raise FittestError(f"{folder}: --with-reference asks the engine of a run, and this folder holds no run.toml")
    model, together = _model_of(run.config().engine)
    return _KeptReference(model, folder / "reference.sqlite", together)


def _model_of(engine: EngineSection) -> tuple[ReferenceModel, int]:
    """Returns the model, and how many pairs it gets at once."""
    match engine:
        case TransformersSection():
            return _in_transformers(engine), 1
        case LlamaCppSection(adapter=None):
            # llama.cpp's server gives no log-probabilities of a given text, so a GGUF file is read by transformers
            return _in_transformers(TransformersSection(model=engine.model, context=engine.context)), 1
        case VllmSection(adapter=None):
            return _in_vllm(engine), _PAIRS_TOGETHER
        case OpenAISection():
            return _served(engine), _PAIRS_TOGETHER
    adapter = " with an adapter" if getattr(engine, "adapter", None) else ""
    raise FittestError(
        f"--with-reference: the engine {engine.kind!r}{adapter} gives no log-probabilities of given answers;"
        " transformers, llamacpp and vllm do, and servers of vLLM"
    )


def _in_transformers(engine: TransformersSection) -> ReferenceModel:
    from fittest.fitness.reference.in_transformers import TransformersReference
    from fittest.runs.parts.engines import transformers

    return TransformersReference(transformers(engine))


def _in_vllm(engine: VllmSection) -> ReferenceModel:
    from fittest.fitness.baselines.vllm_likelihood import VllmLikelihood
    from fittest.fitness.reference.in_vllm import VllmReference

    sizes = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
    chosen = {name: size for name in sizes if (size := getattr(engine, name)) is not None}
    arguments = {**engine.engine_args, **chosen}
    return VllmReference(VllmLikelihood(weights_of(engine.model, dtype="bfloat16"), engine_args=arguments))


def _served(engine: OpenAISection) -> ReferenceModel:
    from fittest.evo.backends.endpoint import Endpoint
    from fittest.evo.backends.openai import ONE_TOKEN
    from fittest.evo.backends.openai_dialect import Dialect
    from fittest.fitness.reference.served import ServedReference

    dialect = Dialect.of(engine.model, engine.extra_body, engine.omit, engine.token_limit)
    endpoint = Endpoint(
        section="engine",
        base_url=engine.base_url,
        api_key_env=engine.api_key_env,
        slots=engine.slots,
        timeout=engine.timeout,
        patience=15.0,
        max_reply_mib=engine.max_reply_mib,
        items="choices",
        headers_env=engine.headers_env,
        extra_query=engine.extra_query,
        probe=dialect.path_and_body(ONE_TOKEN),
        hint=f"does engine.base_url end in /v1, and is engine.model = {engine.model!r} there?",
    )
    return ServedReference(endpoint, engine.model, engine.extra_body)


class _KeptReference:
    """Asks a model for what is not known yet, and keeps each number at once.

    Args:
        model: gives the log-probabilities.
        journal_file: the journal that keeps them.
        together: how many pairs the model gets in one call.
    """

    def __init__(self, model: ReferenceModel, journal_file: Path, together: int) -> None:
        self._model = model
        self._journal_file = journal_file
        self._together = together

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the model."""
        return self._model.fingerprint

    def log_probabilities(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        """Returns what `ReferenceModel.log_probabilities` does; only unknown numbers are computed.

        Args:
            pairs: the chats with their answers.
        """
        subjects = [_subjects(pair) for pair in pairs]
        # both answers of a pair are measured in one batch, since where they begin depends on both
        items = {name: pair for pair, names in zip(pairs, subjects, strict=True) for name in names}
        with journal_at(self._journal_file) as journal:
            measurements = Measurements(journal, self.fingerprint, items)
            progress = ProgressLine("log-probabilities", len(measurements.wanted) // 2)

            def measure(batch: list[AnsweredPair]) -> list[float | Missing]:
                found = self._model.log_probabilities(batch[::2])
                progress.step(len(found))
                return [number for pair in found for number in pair or (_TOO_LONG, _TOO_LONG)]

            known = measurements.complete_now(measure, together=2 * self._together)
        return [_both(known[chosen], known[rejected]) for chosen, rejected in subjects]


def _both(chosen: float | Missing, rejected: float | Missing) -> PairLogProbabilities | None:
    if isinstance(chosen, Missing) or isinstance(rejected, Missing):
        return None
    return PairLogProbabilities(chosen, rejected)


def _subjects(pair: AnsweredPair) -> tuple[str, str]:
    content = json.dumps([pair.messages, pair.chosen, pair.rejected]).encode()
    digest = hashlib.sha256(content).hexdigest()
    return f"{digest}:chosen", f"{digest}:rejected"
