"""Provides a reward without a model: a hash of the texts, part of which all answers to a prompt share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fittest.evo.world import World


class NullReward:
    """Gives pseudo-rewards in [0, 1): two thirds come from the prompt, one third from prompt and response.

    The share of the prompt lets prompts differ by more than the noise of their answers, so that selection has an
    effect in a run without a model.

    Args:
        world: the landscape that rewards are read from instead.
    """

    quick = True

    def __init__(self, world: World | None = None) -> None:
        self.fingerprint = "null:1" if world is None else f"null:1:{world.fingerprint}"
        self._world = world

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Returns one reward for each response."""
        pairs = zip(prompts, responses, strict=True)
        if self._world is not None:
            return [self._world.reward(prompt, response) for prompt, response in pairs]
        return [(2.0 * _uniform(prompt) + _uniform(f"{prompt}\0{response}")) / 3.0 for prompt, response in pairs]


def _uniform(text: str) -> float:
    # 56 bits, divided by 2**56: the largest quotient is below 1, and rounding does not reach it
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56
