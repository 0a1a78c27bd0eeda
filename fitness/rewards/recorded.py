"""Provides rewards that were recorded with the responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fittest.evo.records import Missing


class RecordedReward:
    """Looks rewards up in a table.

    Args:
        rewards: the rewards by (prompt, response); a response that is not in the table has a missing reward.
        fingerprint: the name of the reward in thresholds.json and in the journal, from the columns.
    """

    quick = True

    def __init__(self, rewards: Mapping[tuple[str, str], float | Missing], *, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._rewards = rewards

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns the recorded rewards in the order of the responses."""
        absent = Missing("no reward is recorded for this response")
        return [self._rewards.get(row, absent) for row in zip(prompts, responses, strict=True)]
