"""[engine] of a configuration: one section for each kind of engine, and nothing secret in any of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PrivateAttr, SerializeAsAny, model_validator

from fittest.runs.config.kind_section import KindSection, SectionKinds
from fittest.runs.config.kinds import Kind
from fittest.runs.config.paths import FileName, NameOrFile
from fittest.runs.config.section import Section
from fittest.runs.config.servers import Urls, check_headers, check_no_secrets, check_servers
from fittest.runs.config.world import WorldSection


class _RolloutSampling(Section):
    """[engine.sampling]."""

    n: int = Field(default=8, ge=2, le=10_000)
    temperature: float = Field(default=0.8, ge=0, le=100)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1, le=10_000_000)


class EngineSection(KindSection):
    """What the sections of all engines have in common.

    Attributes:
        TRIED: whether one request shows that the engine works; a recording has no answer to other prompts.
    """

    TRIED: ClassVar[bool] = True

    # which table of run.toml this is, for messages about servers
    _table: str = PrivateAttr("engine")

    slots: int = Field(default=16, ge=1, le=16_384)
    system: str | None = Field(default=None, min_length=1)
    begins_in_reasoning: bool = False
    sampling: _RolloutSampling = _RolloutSampling()

    @property
    def table(self) -> str:
        """Returns the name of the table in run.toml."""
        return self._table

    def in_table(self, name: str) -> Self:
        """Returns the same section as that of another table."""
        found = self.model_copy()
        found._table = name
        return found

    @property
    def label(self) -> str:
        """Returns the word for the engine in messages."""
        return self.kind

    @property
    def servers(self) -> tuple[str, ...]:
        """Returns the addresses that requests are sent to; empty if the engine is in this process."""
        return ()

    @property
    def samples_together(self) -> int:
        """Returns how many samples of one prompt go into one request at most."""
        return 1

    def lasting_elsewhere(self) -> dict[str, Any]:
        """Returns the lasting keys of an engine that does not answer prompts."""
        return {key: value for key, value in self.lasting().items() if key != "sampling"}


class _ModelSection(EngineSection):
    """An engine that is told which model to use."""

    model: str

    @property
    def label(self) -> str:
        """Returns the model's name."""
        return self.model


class _SamplesTogetherSection(_ModelSection):
    """An engine that draws several samples for one request, and reads the prompt once."""

    samples_per_request: int = Field(default=1, ge=1, le=10_000)

    @property
    def samples_together(self) -> int:
        """Returns the configured number."""
        return self.samples_per_request


class LlamaCppSection(_ModelSection):
    """A GGUF model in this process."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: NameOrFile = "smollm2-135m"
    adapter: FileName | None = None
    context: int = Field(default=2048, ge=64, le=100_000_000)
    threads: int = Field(default=0, ge=0, le=4_096)


class OpenAISection(_SamplesTogetherSection):
    """Servers that speak the API of OpenAI; the model is a name that they know, whatever files are here."""

    NEEDS = 'model, the name that the server knows it by, and base_url, such as "http://localhost:8000/v1"'
    MAY_CHANGE = frozenset({"base_url", "api_key_env", "headers_env", "extra_query", "timeout", "max_reply_mib"})

    kind: Literal["openai"] = "openai"
    base_url: Urls
    api_key_env: str | None = None
    headers_env: dict[str, str] = Field(default={})
    extra_query: dict[str, str] = Field(default={})
    extra_body: dict[str, Any] = Field(default={})
    omit: tuple[Literal["temperature", "top_p", "seed", "n", "stop", "max_tokens"], ...] = ()
    token_limit: str = "max_tokens"
    timeout: float = Field(default=600.0, gt=0, le=604_800)
    max_reply_mib: int = Field(default=16, ge=1, le=1024)

    @property
    def servers(self) -> tuple[str, ...]:
        """Returns the configured addresses."""
        return self.base_url

    @model_validator(mode="after")
    def _servers_without_secrets(self) -> Self:
        check_servers(self.base_url, self.api_key_env)
        check_headers(self.headers_env, self.api_key_env)
        check_no_secrets("extra_query", self.extra_query)
        return self

    @model_validator(mode="after")
    def _body_without_keys_and_secrets(self) -> Self:
        ours = _KEYS_OF_BODY | {self.token_limit: "token_limit"}
        taken = self.token_limit in _KEYS_OF_BODY and self.token_limit != "max_tokens"
        if taken or not re.fullmatch(r"[a-z][a-z0-9_]*", self.token_limit):
            raise ValueError(
                f'token_limit "{self.token_limit}" is no name of a limit, such as "max_completion_tokens"'
            )
        for name in self.extra_body:
            if name in ours:
                raise ValueError(f"extra_body.{name} is set by {ours[name]}")
        check_no_secrets("extra_body", self.extra_body)
        if not _is_json(self.extra_body):
            raise ValueError("extra_body holds a value that JSON or TOML has no word for, such as a date or null")
        return self


class TransformersSection(_SamplesTogetherSection):
    """A model of transformers in this process."""

    NEEDS = "model: a folder, a .gguf file or a Hugging Face name"

    kind: Literal["transformers"] = "transformers"
    model: NameOrFile
    adapter: FileName | None = None
    context: int | None = Field(default=None, ge=64, le=100_000_000)
    device: str = "auto"


class VllmSection(_SamplesTogetherSection):
    """vLLM in this process; a size that is not set is vLLM's own choice."""

    MAY_CHANGE = frozenset({"tensor_parallel_size", "gpu_memory_utilization"})

    kind: Literal["vllm"] = "vllm"
    model: NameOrFile = "smollm2-135m"
    adapter: FileName | None = None
    tensor_parallel_size: int | None = Field(default=None, ge=1, le=4_096)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_model_len: int | None = Field(default=None, ge=1, le=100_000_000)
    engine_args: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _arguments_without_keys_and_secrets(self) -> Self:
        for name in self.engine_args:
            if name in _KEYS_OF_VLLM_ARGUMENTS:
                raise ValueError(f"engine_args.{name} is set by {_KEYS_OF_VLLM_ARGUMENTS[name]}")
        check_no_secrets("engine_args", self.engine_args, remedy="a Hugging Face token as HF_TOKEN")
        return self


class NullSection(EngineSection):
    """Seeded pseudo-text. A model changes nothing, but a file for another kind may be run as this one unchanged."""

    TRIED = False

    kind: Literal["null"] = "null"
    model: NameOrFile | None = None
    latency: float = Field(default=0.0, ge=0, le=604_800)
    world: WorldSection | None = None


class ReplaySection(EngineSection):
    """Recorded responses. A model changes nothing, but a file for another kind may be run as this one unchanged."""

    NEEDS = "path: a table of responses, or a journal.sqlite"
    TRIED = False

    kind: Literal["replay"] = "replay"
    model: NameOrFile | None = None
    path: FileName
    prompt_column: str = "prompt"
    response_column: str = "response"


def is_recorded_table(engine: object) -> bool:
    """Tells whether an [engine], as a table or a section, replays a table of responses and not a journal."""
    if isinstance(engine, Mapping):
        return engine.get("kind") == "replay" and not str(engine.get("path", "")).endswith(JOURNAL)
    return isinstance(engine, ReplaySection) and not engine.path.endswith(JOURNAL)


JOURNAL = ".sqlite"
"""The path of a recording that is a journal ends so; any other is a table of responses."""

ENGINES = SectionKinds(
    "fittest.backends",
    "engine",
    {
        "llamacpp": Kind("fittest.runs.parts.engines:llamacpp", LlamaCppSection),
        "vllm": Kind("fittest.runs.parts.engines:vllm", VllmSection),
        "openai": Kind("fittest.runs.parts.engines:openai", OpenAISection),
        "transformers": Kind("fittest.runs.parts.engines:transformers", TransformersSection),
        "null": Kind("fittest.runs.parts.engines:null", NullSection),
        "replay": Kind("fittest.runs.parts.engines:replay", ReplaySection),
    },
    base=EngineSection,
    default="llamacpp",
)

AnyEngine = Annotated[SerializeAsAny[EngineSection], BeforeValidator(ENGINES.read)]
"""The section of the kind that a table names."""


def _without_sampling(given: object) -> object:
    """Refuses [….sampling], which says how answers are drawn, in the table of an engine that gives none."""
    if isinstance(given, Mapping) and "sampling" in given:
        raise ValueError(
            "sampling is for answers: proposals are drawn by [operators.sampling], and judgments as their method says"
        )
    return given


def _write_without_sampling(section: EngineSection) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_none=True, exclude={"sampling"})


AnyOtherEngine = Annotated[
    EngineSection,
    BeforeValidator(ENGINES.read),
    BeforeValidator(_without_sampling),
    PlainSerializer(_write_without_sampling),
]
"""The section of an engine that does not answer prompts: that of [proposer] or [reward.engine]."""

_KEYS_OF_VLLM_ARGUMENTS = {
    "model": "engine.model",
    "max_num_seqs": "engine.slots",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "max_model_len": "engine.max_model_len",
    "enable_lora": "engine.adapter",
}
"""Arguments of vLLM for which there is a key."""

_KEYS_OF_BODY = {
    "model": "model",
    "messages": "the run itself",
    "prompt": "the run itself",
    "n": "samples_per_request",
    "seed": "run.seed",
    "temperature": "the sampling of each role",
    "top_p": "the sampling of each role",
    "max_tokens": "the sampling of each role",
    "stop": "the operators",
    "stream": "the run itself, which reads whole replies",
    "continue_final_message": "the form of proposals",
    "add_generation_prompt": "the form of proposals",
}
"""Keys of the body of a request that are set already."""


def _is_json(value: object) -> bool:
    """Tells whether a value can be sent as JSON and written to run.toml."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
