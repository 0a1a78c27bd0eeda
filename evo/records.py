"""The plain records that pass between the engine, operators, fitness and runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

MetricName = Literal["m1", "m2", "m3", "chosen_reward", "average_reward", "reward_std", "chosen_length"]
Stage = Literal["proposal", "judge", "rollout"]
"""What a request is for: a new prompt, a judgment (of an answer or of a prompt), or an answer to a prompt."""

RIP_METRICS: tuple[MetricName, ...] = ("m1", "m2", "m3")
"""The metrics of the method; they are the fitness."""

METRICS: tuple[MetricName, ...] = (*RIP_METRICS, "chosen_reward", "average_reward", "reward_std", "chosen_length")
"""All that a prompt can be cut by, in the order of every array of metrics: the paper's ablations, and the spread."""

SMALL_IS_GOOD: frozenset[MetricName] = frozenset({"m3", "reward_std"})
"""Metrics whose usual cut is from above."""


class Message(NamedTuple):
    """One message of a chat."""

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

    stage: Stage
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
    """A reply. Token counts are the engine's own.

    `cached_tokens`: prompt tokens that the engine had read before. `seconds`: from sending to reply, set by the
    feeder. Both are about the engine's day, not about the answer, and do not make replies unequal.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)


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


class Milestone(NamedTuple):
    """A moment in the life of an offspring; `number` counts offspring from 0 through all generations."""

    event: Literal["born", "gated", "joined"]
    number: int


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
    `chosen` and `rejected` are positions in the prompt's responses; `n` counts the scored ones. Average and
    standard deviation are over the scored responses; what is not known is NaN.
    """

    m1: float
    m2: int
    m3: float
    chosen: int
    rejected: int
    n: int
    chosen_reward: float = math.nan
    average_reward: float = math.nan
    reward_std: float = math.nan
    chosen_length: float = math.nan

    @property
    def values(self) -> tuple[float, ...]:
        """All metrics, in the order of `METRICS`."""
        return (
            self.m1, self.m2, self.m3, self.chosen_reward, self.average_reward, self.reward_std, self.chosen_length,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Elimination:
    """Why a race eliminated a prompt before all its responses were drawn (docs/design/racing.md).

    `by`: the metric that has failed for good, or "confidence". m1 and m3 are bounds: the worst reward and the gap so
    far.
    """

    by: Literal["m1", "m3", "confidence"]
    m1: float
    m3: float
    failed: tuple[MetricName, ...]


class Range(NamedTuple):
    """An interval that holds its ends; None is open."""

    low: float | None = None
    high: float | None = None

    def within(self, other: Range) -> Range:
        """The part that both have."""
        lows = [end for end in (self.low, other.low) if end is not None]
        highs = [end for end in (self.high, other.high) if end is not None]
        return Range(max(lows, default=None), min(highs, default=None))


def narrowest(one: Mapping[MetricName, Range], other: Mapping[MetricName, Range]) -> dict[MetricName, Range]:
    """Both sets of ranges together; where a metric is in both, the narrower end counts."""
    return {
        name: one.get(name, Range()).within(other.get(name, Range()))
        for name in METRICS
        if name in one or name in other
    }


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a prompt must keep to in one generation.

    Attributes:
        policy: that made them.
        cuts: range of each metric that is cut; it holds where the metric counts.
        bounds: ranges that hold whichever metrics count.
        quantile: the share that each metric may cut, where there is one.
        prompts_fitted: prompts that the cuts were fitted to.
    """

    policy: str
    cuts: Mapping[MetricName, Range]
    bounds: Mapping[MetricName, Range] = field(default_factory=dict)
    quantile: float | None = None
    prompts_fitted: int = 0

    def ranges(self, metrics: Collection[MetricName] = METRICS) -> dict[MetricName, Range]:
        """What holds where these metrics count: their cuts, and all bounds."""
        return narrowest({name: ends for name, ends in self.cuts.items() if name in metrics}, self.bounds)

    @property
    def min_reward(self) -> float | None:
        """τ1: least m1."""
        return self.ranges().get("m1", Range()).low

    @property
    def min_length(self) -> float | None:
        """τ2: least m2."""
        return self.ranges().get("m2", Range()).low

    @property
    def max_gap(self) -> float | None:
        """τ3: largest m3."""
        return self.ranges().get("m3", Range()).high
