"""Rewards that were recorded with the responses: looked up by prompt and response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fittest.evo.records import Missing


class RecordedReward:
    """Looks rewards up in a table.

    Args:
        rewards: by (prompt, response); a pair that is not there is missing.
        fingerprint: of the columns; it is the reward's name in thresholds.json.
    """

    quick = True

    def __init__(self, rewards: Mapping[tuple[str, str], float | Missing], *, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._rewards = rewards

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """The recorded rewards."""
        absent = Missing("no reward is recorded for this response")
        return [self._rewards.get(pair, absent) for pair in zip(prompts, responses, strict=True)]
