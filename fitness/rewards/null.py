"""A reward without a model: seeded by the texts, part of it shared by all answers to a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


class NullReward:
    """Pseudo-rewards in [0, 1): two thirds from the prompt, one third from the pair."""

    fingerprint = "null:1"
    quick = True

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One reward for each pair."""
        return [
            (2.0 * _uniform(prompt) + _uniform(f"{prompt}\0{response}")) / 3.0
            for prompt, response in zip(prompts, responses, strict=True)
        ]


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56
