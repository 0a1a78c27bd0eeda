"""The plain records that pass between the engine, operators, fitness and runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

MetricName = Literal["m1", "m2", "m3"]
METRICS: tuple[MetricName, ...] = ("m1", "m2", "m3")


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine draws tokens; `max_tokens` counts completion tokens."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an operator asks of the model: a chat, or the opening of a text that the model continues.

    Exactly one of `messages` and `prompt` is set. `template` names the wording for the birth record.
    """

    template: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One sample asked of a backend; everything in it determines the reply, so everything in it is in the journal key.

    Exactly one of `messages` (chat) and `prompt` (raw completion) is set. `sample` is the index among the samples
    of the same prompt; `seed` already differs between them.
    """

    stage: Literal["rollout", "proposal"]
    sampling: Sampling
    seed: int
    sample: int = 0
    messages: tuple[Message, ...] = ()
    prompt: str | None = None

    @property
    def user_text(self) -> str:
        """The last user turn, or the raw prompt."""
        return self.messages[-1].content if self.prompt is None else self.prompt


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply. Token counts are the engine's own."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A final failure of one request, journalled in the place of a reply."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A reward that is not there, and why; it never counts as a low reward."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolPrompt:
    """A human prompt as it was read, with where it came from."""

    text: str
    source: str | None = None
    licence: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """How a prompt came to be. `parents`, `exemplars` and `topped_up` hold prompt ids.

    `topped_up` names the exemplars that had failed rejection and were used for want of survivors.
    """

    operator: str
    generation: int
    slot: int
    template: str | None = None
    parents: tuple[str, ...] = ()
    exemplars: tuple[str, ...] = ()
    topped_up: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer: its text, or None when sampling failed; its reward, or None and the reason."""

    sample: int
    text: str | None
    reward: float | None
    missing: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """RIP metrics of one prompt (arXiv 2501.18578, section 3.2).

    m1: reward of the rejected response. m2: its length, in the run's unit. m3: chosen minus rejected reward.
    `chosen` and `rejected` are positions in the prompt's responses; `n` counts the scored ones.
    """

    m1: float
    m2: int
    m3: float
    chosen: int
    rejected: int
    n: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The cuts of one generation; None does not cut. A prompt passes when m1 ≥, m2 ≥ and m3 ≤ (inclusive)."""

    policy: str
    min_reward: float | None
    min_length: float | None
    max_gap: float | None
    quantile: float | None = None
    prompts_fitted: int = 0
