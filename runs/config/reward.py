"""[reward] and [judge] of a configuration: who says what an answer is worth."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fittest.runs.config.section import Section
from fittest.runs.config.servers import Urls, check_servers

LOADED = frozenset({"trust_remote_code", "dtype", "batch_tokens"})
SERVED = frozenset({"base_url", "api_key_env", "slots", "timeout"})
"""What a classifier takes when it is loaded here, and when servers have it."""


class RewardSection(Section):
    """[reward]; keys that a kind does not use must be absent."""

    kind: Literal["head", "null", "recorded", "judge", "pairwise", "classifier"] = "head"
    path: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    column: str | None = None
    weights: dict[str, float] | None = None
    model: str | None = None
    trust_remote_code: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    batch_tokens: int | None = Field(default=None, ge=0)
    base_url: Urls | None = None
    api_key_env: str | None = None
    slots: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    scale: int | None = Field(default=None, ge=1)
    votes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_its_own_keys(self) -> Self:
        keys_of_kind = {
            "head": set[str](),
            "null": set[str](),
            "recorded": {"path", "prompt_column", "response_column", "column", "weights"},
            "judge": {"scale", "votes"},
            "pairwise": {"votes"},
            "classifier": {"model"} | (SERVED if self.base_url else LOADED | {"base_url"}),
        }
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        foreign = given - keys_of_kind[self.kind] - {"kind"}
        if foreign:
            where = "" if self.kind != "classifier" else " with base_url" if self.base_url else " without base_url"
            raise ValueError(f'reward kind "{self.kind}"{where} does not take {", ".join(sorted(foreign))}')
        if self.kind == "recorded" and self.path is None:
            raise ValueError('reward kind "recorded" needs path: a table with one row per response')
        if self.kind == "recorded" and self.column is not None and self.weights is not None:
            raise ValueError("give column, or weights of several columns, not both")
        if self.kind == "classifier" and self.model is None:
            raise ValueError(
                'reward kind "classifier" needs model: a Hugging Face name or a folder, or with base_url the name that'
                " the server knows it by"
            )
        check_servers(self.base_url or (), self.api_key_env)
        return self


class RunJudgeSection(Section):
    """[judge]: who compares answers for reward kind "pairwise", and when it is trained."""

    model: str | None = None
    adapter: str | None = None
    device: str = "auto"
    retrain_every: int = Field(default=0, ge=0)
    rewards: Literal["recompute", "keep"] = "recompute"
    instructions: int = Field(default=40, ge=2)
    samples: int = Field(default=15, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    iterations: int = Field(default=1, ge=1)
    epochs: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)

    @model_validator(mode="after")
    def _only_a_model_can_be_trained(self) -> Self:
        if self.model is None and (self.adapter is not None or self.retrain_every):
            raise ValueError("adapter and retrain_every need model: a folder, a .gguf file or a Hugging Face name")
        return self
