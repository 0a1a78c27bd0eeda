"""Defines the plain records that pass between the engine, operators, fitness and runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

MetricName = Literal["m1", "m2", "m3", "chosen_reward", "average_reward", "reward_std", "chosen_length"]
Stage = Literal["proposal", "judge", "rollout", "reference", "audit"]
"""The stage says what a request asks for: a new prompt, a judgment (of an answer or a prompt), an answer, an answer
that others are compared with, or a judgment that decides nothing."""

STAGES: tuple[Stage, ...] = ("proposal", "rollout", "reference", "judge", "audit")
"""Requests are sent in this order of stages (docs/design/feeding.md).

Proposals go first, because a prompt has to be written before it can be answered. Judgments go last, because they are
short and can fill the slots that fall free while the longest answers are still being written.
"""

Role = Literal["policy", "proposer", "judge", "auditor"]
"""What an engine is there for: the policy answers, the proposer writes offspring, judge and auditor vote."""

ROLES: Mapping[Stage, Role] = {
    "rollout": "policy", "reference": "policy", "proposal": "proposer", "judge": "judge", "audit": "auditor",
}  # fmt: skip
"""The role that serves each stage. A reference is what the policy answers when it does not draw."""

Form = Literal["completion", "prefill", "chat"]
"""The form in which a proposal is asked for: a raw text that the model continues, a chat whose last message is the
beginning of the answer, or a plain chat."""

RIP_METRICS: tuple[MetricName, ...] = ("m1", "m2", "m3")
"""These three metrics define the method, and they are the fitness."""

METRICS: tuple[MetricName, ...] = (*RIP_METRICS, "chosen_reward", "average_reward", "reward_std", "chosen_length")
"""Every metric that can cut prompts is listed here: those of the method, of the paper's ablations, and the spread.

All arrays of metrics have their columns in this order.
"""

SMALL_IS_GOOD: frozenset[MetricName] = frozenset({"m3", "reward_std"})
"""A small value of these metrics is good, so they are usually cut from above."""


class Message(NamedTuple):
    """Holds one message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Says how an engine draws tokens; `max_tokens` counts completion tokens."""

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """Holds what an operator asks of the model: the opening of a text that it continues, a chat, or both forms.

    At least one of `messages` and `prompt` is set; with both, the run takes the form that its engine serves.

    Attributes:
        template: names the wording for the birth record.
        messages: the chat.
        prompt: the opening of a text.
        stop: texts that end the reply; in a plain chat they count only if the proposal has neither a prompt nor a
            prefill, which such texts would close.
        prefill: the beginning of the answer to the chat, for engines that continue an answer.
        thinks: whether the reply thinks before it writes, so that only what stands in its last tags is a prompt.
    """

    template: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    stop: tuple[str, ...] = ()
    prefill: str = ""
    thinks: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Asks a backend for one sample; every field determines the reply, so the journal identifies a reply by all.

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
    def subject(self) -> str:
        """Returns all that the chat says, or the raw prompt: what requests that are about the same thing share.

        The user's last words alone are no subject. In a chat that asks for a task, they are the same each time.
        """
        return "\n".join(message.content for message in self.messages) if self.prompt is None else self.prompt

    @property
    def user_text(self) -> str:
        """Returns the text of the user's last message, or the raw prompt."""
        if self.prompt is not None:
            return self.prompt
        # the last message of all may be the beginning of an answer, which is the same for all proposals
        asked = (message.content for message in reversed(self.messages) if message.role == "user")
        return next(asked, self.messages[-1].content)


@dataclass(frozen=True, slots=True)
class Completion:
    """Holds a reply of an engine, with the engine's own token counts.

    `reasoning` is what the model thought before its answer, which is no part of `text`; it is None if there is none.
    `cached_tokens` counts the prompt tokens that the engine had read before. `seconds` is the time from sending to
    reply, set by the feeder. Both describe how busy the engine was and not the answer, so equality ignores them.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Records that one request failed for good; the journal keeps it in place of a reply."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Says that a reward is missing, and why; a missing reward never counts as a low one."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolPrompt:
    """Holds a human prompt as it was read, and where it came from."""

    text: str
    source: str | None = None
    licence: str | None = None
    language: str | None = None


class Milestone(NamedTuple):
    """Names a moment in the life of an offspring; `number` counts offspring from 0 through all generations."""

    event: Literal["born", "gated", "joined"]
    number: int


@dataclass(frozen=True, slots=True)
class Birth:
    """Records how a prompt came to be; `parents`, `exemplars` and `topped_up` hold prompt ids.

    `topped_up` names the exemplars that had failed rejection; they are used when there are too few survivors.
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
    """Holds one sampled answer and its reward.

    `text` is None when sampling failed. `reward` is None when it is missing, and `missing` then says why.
    `truncated` says that the answer was cut at `max_tokens`. `reasoning` is what the model thought before it.
    `finish_reason` is None when sampling failed; the tokens are the engine's own counts. `audit` is the reward that
    decides nothing; it is None if there was no audit.
    """

    sample: int
    text: str | None
    reward: float | None
    missing: str | None = None
    truncated: bool = False
    reasoning: str | None = None
    finish_reason: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    audit: float | Missing | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Holds the RIP metrics of one prompt (arXiv 2501.18578, section 3.2).

    m1 is the reward of the rejected response, m2 its length in the run's unit, and m3 the chosen minus the rejected
    reward. `chosen` and `rejected` are positions in the prompt's responses; `n` counts the scored responses. Average
    and standard deviation are taken over the scored responses. A value that is not known is NaN.

    `halves` holds the values of the first and of the second half of the responses, which show how much of a value is
    luck; only prompts of the pool and audited ones that were drawn in full whatever came have them, and only in a run
    that picks by merit.
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
    halves: tuple[tuple[float, ...], tuple[float, ...]] | None = field(default=None, repr=False)

    @property
    def values(self) -> tuple[float, ...]:
        """Returns all metrics, in the order of `METRICS`."""
        return (
            self.m1, self.m2, self.m3, self.chosen_reward, self.average_reward, self.reward_std, self.chosen_length,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Elimination:
    """Says why a race eliminated a prompt before all its responses were drawn (docs/design/racing.md).

    `by` names the metric that has failed for good, or is "confidence". `m1` and `m3` are bounds: the worst reward and
    the gap so far.
    """

    by: Literal["m1", "m3", "confidence"]
    m1: float
    m3: float
    failed: tuple[MetricName, ...]


@dataclass(slots=True)
class FreshDraw:
    """Holds one draw of responses that came after the first (docs/design/confirmation.md).

    `number` is d ≥ 1 of the samples d·n … (d + 1)·n − 1. `metrics` is None if the draw lost a race, or if fewer than
    two of its responses have a reward. `failed` names the metrics that it failed by. `responses` are put away once
    they are on record; `n_drawn` counts them.
    """

    number: int
    responses: list[Response]
    n_drawn: int
    metrics: Metrics | None
    passed: bool
    failed: tuple[MetricName, ...] = ()


class Range(NamedTuple):
    """Describes an interval that includes its ends; an end that is None is open."""

    low: float | None = None
    high: float | None = None

    def within(self, other: Range) -> Range:
        """Returns the intersection of two ranges."""
        lows = [end for end in (self.low, other.low) if end is not None]
        highs = [end for end in (self.high, other.high) if end is not None]
        return Range(max(lows, default=None), min(highs, default=None))


def _narrowest(one: Mapping[MetricName, Range], other: Mapping[MetricName, Range]) -> dict[MetricName, Range]:
    """Joins two sets of ranges; where a metric is in both, the narrower end counts."""
    return {
        name: one.get(name, Range()).within(other.get(name, Range()))
        for name in METRICS
        if name in one or name in other
    }


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Holds the ranges in which the metrics of a prompt must lie to survive one generation.

    Attributes:
        policy: the name of the policy that made them.
        cuts: the range of each metric that is cut; it applies where the metric counts.
        bounds: ranges that apply whichever metrics count.
        quantile: the share that each metric may cut; None if the cuts do not come from a quantile.
        prompts_fitted: the number of prompts that the cuts were fitted to.
    """

    policy: str
    cuts: Mapping[MetricName, Range]
    bounds: Mapping[MetricName, Range] = field(default_factory=dict)
    quantile: float | None = None
    prompts_fitted: int = 0

    def ranges(self, metrics: Collection[MetricName] = METRICS) -> dict[MetricName, Range]:
        """Returns the ranges that apply when these metrics count: their cuts, and all bounds."""
        return _narrowest({name: ends for name, ends in self.cuts.items() if name in metrics}, self.bounds)

    @property
    def min_reward(self) -> float | None:
        """Returns τ1, the least m1 that survives."""
        return self.ranges().get("m1", Range()).low

    @property
    def min_length(self) -> float | None:
        """Returns τ2, the least m2 that survives."""
        return self.ranges().get("m2", Range()).low

    @property
    def max_gap(self) -> float | None:
        """Returns τ3, the largest m3 that survives."""
        return self.ranges().get("m3", Range()).high
