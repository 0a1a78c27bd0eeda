"""A user's own function as a reward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fittest.evo.records import Missing

Scores = Sequence[float | Missing | None]
RewardFunction = Callable[[Sequence[str], Sequence[str]], Scores | Awaitable[Scores]]


class FunctionReward:
    """Wraps `f(prompts, responses) -> list[float | None]`, sync or async.

    Args:
        function: scores a batch of pairs.
        name: identifies the function in the journal; give another name when what it computes changes.
    """

    quick = False

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        self.fingerprint = f"function:{name or getattr(function, '__qualname__', type(function).__qualname__)}"
        self.score = function
