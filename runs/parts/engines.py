"""From the [engine] of a configuration to a backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.protocols import Backend
from fittest.evo.records import Milestone
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from fittest.runs.config import Config
    from fittest.runs.config.engine import EngineSection


def backend_of(engine: EngineSection) -> Backend:
    """The engine that a configuration names; nothing is loaded yet, but a GGUF file may be converted first.

    Raises:
        FittestError: its model or recording is not there.
    """
    if engine.kind == "null":
        from fittest.evo.backends.null import Null

        return Null(slots=engine.slots, latency=engine.latency or 0.0)
    if engine.kind == "replay":
        return _replay(engine)
    if engine.kind == "openai":
        from fittest.evo.backends.openai import OpenAI

        return OpenAI(
            base_url=engine.base_url or (),
            model=engine.model or "",
            api_key_env=engine.api_key_env,
            slots=engine.slots,
            timeout=engine.timeout or 600.0,
        )
    if engine.kind == "transformers":
        from fittest.evo.backends.transformers import Transformers

        return Transformers(
            model=weights_of(engine.model or ""),
            adapter=engine.adapter,
            slots=engine.slots,
            context=engine.context,
            device=engine.device or "auto",
        )
    if engine.kind == "vllm":
        from fittest.evo.backends.vllm import Vllm

        sizes = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
        return Vllm(
            model=weights_of(engine.model or "smollm2-135m", dtype="bfloat16"),
            slots=engine.slots,
            adapter=None if engine.adapter is None else Path(engine.adapter),
            engine_args={**(engine.engine_args or {}), **{name: getattr(engine, name) for name in sizes}},
        )
    from fittest.evo.backends.llamacpp import LlamaCpp

    model = local_path(engine.model or "smollm2-135m")
    return LlamaCpp(
        model=model,
        slots=engine.slots,
        context=engine.context or 2048,
        threads=engine.threads or 0,
        adapter=None if engine.adapter is None else Path(engine.adapter),
    )


def _replay(engine: EngineSection) -> Backend:
    from fittest.evo.backends.replay import Replay, recorded_journal, recorded_responses
    from fittest.runs.output.journal import SqliteJournal
    from fittest.runs.sources.responses import Columns, read_responses

    path = Path(engine.path or "")
    if path.suffix == ".sqlite":
        if not path.is_file():
            raise FittestError(f"engine.path: no journal at {path}")
        journal = SqliteJournal(path, read_only=True)
        fingerprint = journal.meta("fingerprint")
        if fingerprint is None:
            raise FittestError(f"engine.path: {path} is not the journal of a run")
        return Replay(recording=recorded_journal(journal, fingerprint), fingerprint=fingerprint, slots=engine.slots)
    columns = Columns(
        prompt=engine.prompt_column or "prompt", response=engine.response_column or "response", rewards={}
    )
    table = read_responses(path, columns)
    return Replay(
        recording=recorded_responses(table.by_prompt()), fingerprint=f"replay:{table.fingerprint}", slots=engine.slots
    )


def recorded_milestones(config: Config) -> list[Milestone]:
    """The order of events of the run whose journal is replayed, as far as the same offspring are bred."""
    from fittest.runs.output.journal import SqliteJournal

    path = Path(config.engine.path or "")
    if config.engine.kind != "replay" or path.suffix != ".sqlite":
        return []
    journal = SqliteJournal(path, read_only=True)
    milestones = journal.milestones()
    journal.close()
    births = config.run.generations * config.operators.offspring
    return [milestone for milestone in milestones if milestone.number < births]
