"""From the [engine] of a configuration to a backend: one function for each kind."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from fittest.evo.engines import Engine, Engines
from fittest.evo.errors import FittestError
from fittest.evo.protocols import Backend
from fittest.evo.records import Form, Milestone, Role
from fittest.runs.config.engine import ENGINES, OpenAISection, ReplaySection
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from fittest.evo.backends.transformers import Transformers
    from fittest.runs.config import Config
    from fittest.runs.config.engine import (
        EngineSection,
        LlamaCppSection,
        NullSection,
        TransformersSection,
        VllmSection,
    )


def backend_of(engine: EngineSection) -> Backend:
    """Returns the engine that a configuration names; nothing is loaded yet, but a GGUF file may be converted first.

    Args:
        engine: the section.

    Raises:
        FittestError: its model or recording is not there, or it is a plug-in that cannot be loaded.
    """
    return cast("Backend", ENGINES.make(engine.kind, engine))


def engines_of(config: Config) -> Engines:
    """Returns the engine of each role that a configuration names.

    Args:
        config: the whole configuration.

    Raises:
        FittestError: a model or recording is not there, or a plug-in cannot be loaded.
    """
    made = {
        role: Engine(
            backend_of(section),
            system=section.system or "",
            together=section.samples_together,
            begins_in_reasoning=section.begins_in_reasoning,
        )
        for role, section in config.engines.items()
    }
    return Engines(**made)


def fingerprint_name(role: Role) -> str:
    """Returns the name under which a journal keeps the fingerprint of the engine that was configured for a role."""
    return "fingerprint" if role == "policy" else f"fingerprint.{role}"


def llamacpp(engine: LlamaCppSection) -> Backend:
    """Returns llama.cpp with a GGUF model."""
    from fittest.evo.backends.llamacpp import LlamaCpp

    return LlamaCpp(
        model=local_path(engine.model),
        slots=engine.slots,
        context=engine.context,
        threads=engine.threads,
        adapter=None if engine.adapter is None else Path(engine.adapter),
    )


def vllm(engine: VllmSection) -> Backend:
    """Returns vLLM in this process."""
    from fittest.evo.backends.vllm import Vllm

    sizes = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
    return Vllm(
        model=weights_of(engine.model, dtype="bfloat16"),
        slots=engine.slots,
        adapter=None if engine.adapter is None else Path(engine.adapter),
        engine_args={**engine.engine_args, **{name: getattr(engine, name) for name in sizes}},
    )


def openai(engine: OpenAISection) -> Backend:
    """Returns the servers that speak the API of OpenAI."""
    from fittest.evo.backends.openai import OpenAI

    return OpenAI(
        base_url=engine.base_url,
        model=engine.model,
        section=engine.table,
        api_key_env=engine.api_key_env,
        headers_env=engine.headers_env,
        extra_query=engine.extra_query,
        extra_body=engine.extra_body,
        omit=engine.omit,
        token_limit=engine.token_limit,
        slots=engine.slots,
        timeout=engine.timeout,
        max_reply_mib=engine.max_reply_mib,
    )


def transformers(engine: TransformersSection) -> Transformers:
    """Returns a model of transformers."""
    from fittest.evo.backends.transformers import Transformers

    return Transformers(
        model=weights_of(engine.model),
        adapter=engine.adapter,
        slots=engine.slots,
        context=engine.context,
        device=engine.device,
    )


def null(engine: NullSection) -> Backend:
    """Returns the engine that needs no model."""
    from fittest.evo.backends.null import Null

    return Null(slots=engine.slots, latency=engine.latency, world=None if engine.world is None else engine.world.world)


def replay(engine: ReplaySection) -> Backend:
    """Returns the engine that answers from a recording.

    Args:
        engine: the section.

    Raises:
        FittestError: there is no recording, or it is not one.
    """
    from fittest.evo.backends.replay import Replay
    from fittest.runs.output.journal import SqliteJournal
    from fittest.runs.sources.responses import Columns, read_responses

    path = Path(engine.path)
    if path.suffix == ".sqlite":
        if not path.is_file():
            raise FittestError(f"engine.path: no journal at {path}")
        opened = partial(SqliteJournal, path, read_only=True)
        with opened() as journal:
            journal.refuse_damaged()
            fingerprints = {
                role: found for role in get_args(Role) if (found := journal.meta(fingerprint_name(role))) is not None
            }
            form = cast("Form | None", journal.meta("proposal_form"))
        if "policy" not in fingerprints:
            raise FittestError(f"engine.path: {path} is not the journal of a run")
        return Replay.of_journal(opened, fingerprints=fingerprints, slots=engine.slots, form=form)
    columns = Columns(prompt=engine.prompt_column, response=engine.response_column, rewards={})
    table = read_responses(path, columns)
    return Replay.of_responses(table.by_prompt(), fingerprint=f"replay:{table.fingerprint}", slots=engine.slots)


def recorded_milestones(config: Config) -> list[Milestone]:
    """Returns the order of events of the run whose journal is replayed, as far as the same offspring are bred."""
    from fittest.runs.output.journal import SqliteJournal

    engine = config.engine
    if not isinstance(engine, ReplaySection) or Path(engine.path).suffix != ".sqlite":
        return []
    with SqliteJournal(Path(engine.path), read_only=True) as journal:
        milestones = journal.milestones()
    births = config.run.generations * config.operators.offspring
    return [milestone for milestone in milestones if milestone.number < births]
