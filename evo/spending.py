"""Counts what requests cost in tokens, slot time and money, and charges the cost to the part that asked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from fittest.evo.records import ROLES, STAGES, Completion, Role

if TYPE_CHECKING:
    from fittest.evo.records import Failure, Stage

_MILLION = 1e6
_HOUR = 3600.0

MOST_TOKENS = 2**31 - 1
"""No request has more tokens; a larger count is a mistake of whoever counted, and sums of it would overflow."""


def tokens_in(count: object) -> int:
    """Returns a count of tokens as an engine gives it; 0, which means that none was given, if it can be no count.

    Args:
        count: a whole number from 0 to 2,147,483,647, or anything else.
    """
    return count if type(count) is int and 0 <= count <= MOST_TOKENS else 0


@dataclass(slots=True)
class Spending:
    """Holds what a number of replies have cost, including failures.

    Tokens are the engine's own counts. `cached_tokens` counts the prompt tokens that the engine had read before.
    `seconds` is slot time: the sum over requests of the time from sending to reply.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Returns the number of prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def count(self, reply: Completion | Failure) -> None:
        """Adds one reply."""
        self.requests += 1
        if isinstance(reply, Completion):
            self.prompt_tokens += reply.prompt_tokens
            self.cached_tokens += reply.cached_tokens
            self.completion_tokens += reply.completion_tokens
            self.seconds += reply.seconds

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )


class Ledger:
    """Holds spending by stage."""

    __slots__ = ("_stages",)
    # its content changes
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self._stages: defaultdict[Stage, Spending] = defaultdict(Spending)

    def __getitem__(self, stage: Stage) -> Spending:
        return self._stages[stage]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and all(self[stage] == other[stage] for stage in STAGES)

    def __repr__(self) -> str:
        return f"Ledger({dict(self._stages)})"

    def __add__(self, other: Ledger) -> Ledger:
        both = Ledger()
        for ledger in (self, other):
            for stage, spending in ledger._stages.items():
                both.add(stage, spending)
        return both

    def add(self, stage: Stage, spending: Spending) -> None:
        """Adds what was spent on one stage."""
        self._stages[stage] += spending

    def of_role(self, role: Role) -> Spending:
        """Returns the spending of the stages that a role serves."""
        return sum((spent for stage, spent in self._stages.items() if ROLES[stage] == role), Spending())

    @property
    def total(self) -> Spending:
        """Returns the spending of all stages together."""
        return sum(self._stages.values(), Spending())


# a context variable follows each task, so that no part of a run has to hand the ledger on to the parts it calls
_account: ContextVar[Ledger | None] = ContextVar("account", default=None)


@contextmanager
def charged_to(ledger: Ledger) -> Iterator[None]:
    """Charges every request that is made inside the block, however deep, to this ledger and to the feeder's own."""
    before = _account.set(ledger)
    try:
        yield
    finally:
        _account.reset(before)


def account() -> Ledger | None:
    """Returns the ledger that requests are charged to here, or None outside `charged_to`."""
    return _account.get()


@dataclass(frozen=True, slots=True)
class Prices:
    """Holds the price of a million tokens and of an hour of the engine, in any one currency.

    If `cached_tokens` is None, a prompt token costs the same whether or not the engine had read it before.
    """

    prompt_tokens: float = 0.0
    cached_tokens: float | None = None
    completion_tokens: float = 0.0
    engine_hour: float = 0.0

    @property
    def known(self) -> bool:
        """Tells whether anything has a price."""
        return self != Prices()

    def of_tokens(self, spending: Spending) -> float:
        """Returns the cost of the tokens."""
        cached_price = self.prompt_tokens if self.cached_tokens is None else self.cached_tokens
        return (
            (spending.prompt_tokens - spending.cached_tokens) * self.prompt_tokens
            + spending.cached_tokens * cached_price
            + spending.completion_tokens * self.completion_tokens
        ) / _MILLION

    def of_time(self, seconds: float) -> float:
        """Returns the cost of using the whole engine for this time."""
        return seconds * self.engine_hour / _HOUR


@dataclass(frozen=True, slots=True)
class PriceList:
    """Holds the prices of each engine; a role that shares the policy's engine has its prices.

    Attributes:
        policy: the prices of the engine that answers.
        proposer: those of a proposer that is another engine; None if the policy's engine writes the offspring.
        judge: those of a judge that is another engine; None if the policy's engine votes.
        auditor: those of an auditor that is another engine, likewise.
    """

    policy: Prices = Prices()
    proposer: Prices | None = None
    judge: Prices | None = None
    auditor: Prices | None = None

    def of(self, role: Role) -> Prices:
        """Returns the prices of what a role does."""
        own: Prices | None = getattr(self, role)
        return own or self.policy

    @property
    def known(self) -> bool:
        """Tells whether anything has a price."""
        return any(self.of(role).known for role in get_args(Role))

    def of_tokens(self, spent: Ledger) -> float:
        """Returns the cost of the tokens."""
        return sum(self.of(role).of_tokens(spent.of_role(role)) for role in get_args(Role))

    def of_time(self, seconds: float) -> float:
        """Returns the cost of using all engines for this time; one that several roles share is paid once."""
        separate = (self.policy, self.proposer, self.judge, self.auditor)
        return sum(prices.of_time(seconds) for prices in separate if prices is not None)


@dataclass(frozen=True, slots=True)
class Budget:
    """Holds the caps on one run; 0 means no cap.

    Tokens count prompts and completions; seconds count all sessions; cost counts tokens and time at `prices`. Once a
    cap is reached, nothing more is sent, so a run exceeds it by no more than the requests in flight. `max_requests`
    is never exceeded.
    """

    max_tokens: int = 0
    max_seconds: float = 0.0
    max_requests: int = 0
    max_cost: float = 0.0
    prices: PriceList = PriceList()

    def seconds_left(self, seconds: float) -> float:
        """Returns the seconds left until the cap on time; infinity if there is no cap."""
        return max(0.0, self.max_seconds - seconds) if self.max_seconds else math.inf

    def requests_left(self, answered: int) -> float:
        """Returns how many requests may be in flight at once when `answered` requests have been answered."""
        return self.max_requests - answered if self.max_requests else math.inf

    def reached(self, spent: Ledger, seconds: float) -> str | None:
        """Returns the name of the cap that has been reached, or None."""
        if self.max_tokens and spent.total.tokens >= self.max_tokens:
            return "max_tokens"
        if self.max_seconds and seconds >= self.max_seconds:
            return "max_seconds"
        if self.max_cost and self.prices.of_tokens(spent) + self.prices.of_time(seconds) >= self.max_cost:
            return "max_cost"
        return None
