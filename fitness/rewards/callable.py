"""Makes a reward of a user's own function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fittest.evo.records import Missing

_Scores = Sequence[float | Missing | None]
RewardFunction = Callable[[Sequence[str], Sequence[str]], _Scores | Awaitable[_Scores]]
"""A reward function returns a number for each response to its prompt, or None where the reward is missing."""


class FunctionReward:
    """Wraps `f(prompts, responses) -> list[float | None]`, sync or async.

    Args:
        function: scores a batch of responses, each to the prompt at the same position.
        name: identifies the function in the journal; change it when what the function computes changes.
    """

    quick = False

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        self.fingerprint = f"function:{name or getattr(function, '__qualname__', type(function).__qualname__)}"
        self.score = function
