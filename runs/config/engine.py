"""[engine] of a configuration: which keys go with which kind, and nothing secret among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fittest.runs.config.section import Section
from fittest.runs.config.servers import Urls, check_servers


class RolloutSampling(Section):
    """[engine.sampling]."""

    n: int = Field(default=8, ge=2)
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)


KEYS_OF_VLLM_ARGUMENTS = {
    "model": "engine.model",
    "max_num_seqs": "engine.slots",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "max_model_len": "engine.max_model_len",
    "enable_lora": "engine.adapter",
}
"""Arguments of vLLM that have a key of their own."""

SECRET = re.compile(
    r"((^|[_-])(key|password|passwd|secret|credentials?)|(^|(hf|hub|auth|access|api|bearer|session)[_-])token)$", re.I
)
"""Names of what nobody else may read; `pad_token` and `max_num_batched_tokens` are others."""


class EngineSection(Section):
    """[engine]; keys that a kind does not use must be absent."""

    kind: Literal["llamacpp", "vllm", "openai", "transformers", "null", "replay"] = "llamacpp"
    slots: int = Field(default=16, ge=1)
    model: str | None = None
    context: int | None = Field(default=None, ge=64)
    threads: int | None = Field(default=None, ge=0)
    base_url: Urls | None = None
    api_key_env: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    samples_per_request: int | None = Field(default=None, ge=1)
    adapter: str | None = None
    device: str | None = None
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_model_len: int | None = Field(default=None, ge=1)
    engine_args: dict[str, Any] | None = None
    latency: float | None = Field(default=None, ge=0)
    path: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    sampling: RolloutSampling = RolloutSampling()

    @model_validator(mode="after")
    def _only_its_own_keys(self) -> Self:
        keys_of_kind = {
            "llamacpp": {"model", "adapter", "context", "threads"},
            "openai": {"model", "base_url", "api_key_env", "timeout", "samples_per_request"},
            "transformers": {"model", "adapter", "context", "device", "samples_per_request"},
            "vllm": {
                "model",
                "tensor_parallel_size",
                "gpu_memory_utilization",
                "max_model_len",
                "adapter",
                "engine_args",
                "samples_per_request",
            },
            "null": {"latency", "model"},
            "replay": {"path", "prompt_column", "response_column", "model"},
        }
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        foreign = given - keys_of_kind[self.kind] - {"kind", "slots", "sampling"}
        if foreign:
            raise ValueError(f'engine kind "{self.kind}" does not take {", ".join(sorted(foreign))}')
        if self.kind == "replay" and self.path is None:
            raise ValueError('engine kind "replay" needs path: a table of responses, or a journal.sqlite')
        if self.kind == "openai" and not (self.model and self.base_url):
            raise ValueError(
                'engine kind "openai" needs model, the name that the server knows it by, and base_url, such as'
                ' "http://localhost:8000/v1"'
            )
        if self.kind == "transformers" and not self.model:
            raise ValueError('engine kind "transformers" needs model: a folder, a .gguf file or a Hugging Face name')
        for name in self.engine_args or {}:
            if name in KEYS_OF_VLLM_ARGUMENTS:
                raise ValueError(f"engine_args.{name} is set by {KEYS_OF_VLLM_ARGUMENTS[name]}")
        if secret := next(secrets_among(self.engine_args or {}), None):
            raise ValueError(
                f"engine_args.{secret} would be written to run.toml; put what is secret into the environment instead,"
                " a Hugging Face token as HF_TOKEN"
            )
        check_servers(self.base_url or (), self.api_key_env)
        return self


def secrets_among(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of arguments that hold a secret by their name, however deep."""
    for name, value in arguments.items():
        if SECRET.search(name):
            yield name
        elif isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in secrets_among(value))
