"""Provides an engine that answers from a recording: a table of responses, or the journal of an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Self

from fittest.evo.errors import RequestFailedError
from fittest.evo.keys import request_key
from fittest.evo.protocols import Journal
from fittest.evo.records import ROLES, Completion, Failure, Form, Request, Role, Stage

_Recording = Callable[[Request], Completion]
_Opened = Callable[[], AbstractContextManager[_Recording]]


class Replay:
    """Plays a recording; a request that is not in it fails with a reason.

    Args:
        recording: opens the recording, which finds the recorded reply to a request; it is closed with the engine.
        fingerprint: the fingerprint of the recording, or of the model whose journal is played.
        slots: requests answered at once.
        form: the form of the recorded proposals, if there are any.
    """

    def __init__(self, *, recording: _Opened, fingerprint: str, slots: int = 16, form: Form | None = None) -> None:
        self.fingerprint = fingerprint
        self.slots = slots
        self._recording = recording
        self._form = form
        self._open = ExitStack()

    @classmethod
    def of_responses(cls, responses: Mapping[str, Sequence[str | None]], *, fingerprint: str, slots: int = 16) -> Self:
        """Returns an engine that answers sample i of a prompt with its i-th recorded response.

        A table has no token counts, so words are counted instead.

        Args:
            responses: the responses of each prompt; None stands for a response that is null in the table.
            fingerprint: the fingerprint of the recording.
            slots: requests answered at once.
        """
        find = _recorded_responses(responses)
        return cls(recording=lambda: nullcontext(find), fingerprint=fingerprint, slots=slots)

    @classmethod
    def of_journal(
        cls,
        journal: Callable[[], AbstractContextManager[Journal]],
        *,
        fingerprints: Mapping[Role, str],
        slots: int = 16,
        form: Form | None = None,
    ) -> Self:
        """Returns an engine that answers with the reply that a journal holds under the request's key.

        Args:
            journal: opens the journal of an earlier run.
            fingerprints: the fingerprint of the engine in each role that had an engine of its own; the policy's serves
                the others.
            slots: requests answered at once.
            form: the form of the run's proposals, if it is known.
        """
        policy = fingerprints["policy"]
        by_stage = {stage: fingerprints.get(role, policy) for stage, role in ROLES.items()}

        @contextmanager
        def opened() -> Iterator[_Recording]:
            with journal() as recorded:
                yield _recorded_journal(recorded, by_stage)

        return cls(recording=opened, fingerprint=policy, slots=slots, form=form)

    async def __aenter__(self) -> Self:
        self._find = self._open.enter_context(self._recording())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open.close()

    async def sample(self, request: Request) -> Completion:
        """Returns the recorded reply."""
        return self._find(request)

    async def proposal_form(self, wanted: Sequence[Form]) -> tuple[Form, str]:
        """Returns the form of the recorded proposals; without any, the first that is wanted."""
        return (wanted[0], "") if self._form is None else (self._form, "so it was in the recorded run")


def _recorded_responses(responses: Mapping[str, Sequence[str | None]]) -> _Recording:
    """Returns the recording that a table is."""

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


def _recorded_journal(journal: Journal, fingerprints: Mapping[Stage, str]) -> _Recording:
    """Returns the recording that a journal is."""

    def find(request: Request) -> Completion:
        reply = journal.reply(request_key(fingerprints[request.stage], request), request.sample)
        if reply is None:
            raise RequestFailedError("replay: request is not in the journal")
        if isinstance(reply, Failure):
            raise RequestFailedError(reply.reason)
        return reply

    return find
