"""An engine that answers from what was recorded: a table of responses, or the journal of an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from fittest.evo.errors import RequestFailedError
from fittest.evo.keys import request_key
from fittest.evo.protocols import Journal
from fittest.evo.records import Completion, Failure, Request

Recording = Callable[[Request], Completion]


class Replay:
    """Plays a recording; what is not in it is a named failure.

    Args:
        recording: finds the recorded reply to a request.
        fingerprint: of the recording, or of the model whose journal is played.
        slots: requests answered at once.
    """

    def __init__(self, *, recording: Recording, fingerprint: str, slots: int = 16) -> None:
        self.fingerprint = fingerprint
        self.slots = slots
        self._recording = recording

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def sample(self, request: Request) -> Completion:
        """The recorded reply."""
        return self._recording(request)


def recorded_responses(responses: Mapping[str, Sequence[str | None]]) -> Recording:
    """Sample i of a prompt is its i-th recorded response; a recording has no token counts, so words are counted."""

    def find(request: Request) -> Completion:
        rows = responses.get(request.user_text)
        if rows is None:
            raise RequestFailedError("replay: prompt is not in the recording")
        if request.sample >= len(rows):
            raise RequestFailedError(f"replay: only {len(rows)} responses recorded")
        text = rows[request.sample]
        if text is None:
            raise RequestFailedError("replay: recorded response is null")
        return Completion(
            text=text,
            finish_reason="stop",
            prompt_tokens=len(request.user_text.split()),
            completion_tokens=len(text.split()),
        )

    return find


def recorded_journal(journal: Journal, fingerprint: str) -> Recording:
    """The reply that a journal holds under the request's key."""

    def find(request: Request) -> Completion:
        reply = journal.reply(request_key(fingerprint, request), request.sample)
        if reply is None:
            raise RequestFailedError("replay: request is not in the journal")
        if isinstance(reply, Failure):
            raise RequestFailedError(reply.reason)
        return reply

    return find
