"""Counts what failed in a row, to tell a request that fails by itself from servers that answer nothing."""

from __future__ import annotations

import time

from fittest.evo.backends.servers import Servers
from fittest.evo.errors import FittestError

_REFUSALS = 20
# a prompt may break every server that it is sent to; three of them in a row, with nothing answered in between, do not
_BREAKING = 3


class InARow:
    """Knows what has failed since a server last answered.

    Args:
        servers: the servers.
        counts_refusals: whether many refusals in a row end the run.

    Attributes:
        answers: how many requests have been answered or refused.
        asking: how many are on their way.
    """

    def __init__(self, servers: Servers, *, counts_refusals: bool) -> None:
        self._servers = servers
        self._counts_refusals = counts_refusals
        self._refused: dict[str, set[str]] = {}
        self._breaking: set[str | bytes] = set()
        self.answers = 0
        self.asking = 0

    def answered(self, role: str | None) -> None:
        """Notes that a request was answered.

        Args:
            role: what it was part of.
        """
        self._sign_of_life()
        if role is not None:
            self._refused.pop(role, None)

    def refused(self, url: str, role: str | None, subject: str | None, words: str) -> None:
        """Notes that a request was refused: a run in which nothing else comes is worth nothing.

        Args:
            url: the address of the server.
            role: what the request was part of; if None, its refusal counts as no more than a sign of life.
            subject: what the requests of one prompt share. They are asked for one after another, and refused for the
                same reason.
            words: what the server said.

        Raises:
            FittestError: so many prompts in a row were refused.
        """
        self._sign_of_life()
        if not self._counts_refusals or role is None:
            return
        self._refused.setdefault(role, set()).add(subject or "")
        if len(self._refused[role]) >= _REFUSALS:
            raise FittestError(f"{url}: {_REFUSALS} prompts in a row were refused, the last one with: {words}")

    def fails_alone(self, subject: str | bytes, *, answers: int, began: float) -> bool:
        """Tells whether a request that was tried often enough has failed by itself, and not in an outage.

        Args:
            subject: what the requests of one prompt share.
            answers: how many requests had been answered when this one began.
            began: the time of the monotonic clock at which it began.

        Raises:
            EngineLostError: nothing else was answered for too long, though a server gives single tokens.
        """
        if self.answers > answers:
            return True
        # others are on their way, and one of them may yet be answered, by which this one is known to be at fault
        if self.asking > 1 and time.monotonic() - began < self._servers.patience:
            return False
        self._breaking.add(subject)
        if len(self._breaking) >= _BREAKING:
            raise self._servers.lost(f"no server has answered any of {_BREAKING} prompts in a row")
        return True

    def _sign_of_life(self) -> None:
        self.answers += 1
        self._breaking.clear()
