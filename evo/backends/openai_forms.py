"""Finds out in which form the servers of an engine can be asked for a proposal, and how they continue an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.openai_dialect import CONTINUATIONS, Dialect
from fittest.evo.backends.openai_format import NOT_SERVED, Refused, completions_of
from fittest.evo.backends.servers import Cause, Server, Trouble, pause
from fittest.evo.errors import FittestError, RequestFailedError, first_error
from fittest.evo.records import Completion, Form, Message, Request, Role, Sampling

_ROLE: Role = "proposer"
# a user waits for the trials at the start of a run
_TRIAL_SECONDS = 10.0
_TRIES = 3
_LONGEST_WAIT = 8.0
_LONGEST_BUSY = 60.0
# a new message costs at least its own header, which is three tokens and more; the word that is continued costs one
_TOKENS_OF_A_WORD = 2

_SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_tokens=16)
_QUESTION = Message("user", "Say hello.")
_TEXT = Request("proposal", _SAMPLING, seed=0, prompt="One, two, three,")
_CHAT = Request("proposal", _SAMPLING, seed=0, messages=(_QUESTION,))
_BEGUN = Request("proposal", _SAMPLING, seed=0, messages=(_QUESTION, Message("assistant", "Hello")))


_SERVED = {"completion": "/completions", "prefill": "chats whose answer is begun", "chat": "/chat/completions"}


class _Reply(NamedTuple):
    """Says how a server took a request.

    `words` say why it does not serve such requests. `tokens` are those that it read, and 0 if it does not count them.
    `late` says that it has neither answered nor refused in time, so that it may do either yet.
    """

    error: RequestFailedError | None
    words: str = ""
    tokens: int = 0
    late: bool = False


_Replies = dict[Server, _Reply]


class FormTrials:
    """Tries forms on all servers of an endpoint, and remembers how they continue an answer.

    Args:
        endpoint: the servers.
        patience: seconds for which a server may be busy; a user who waits for the run to begin waits at most a minute.

    Attributes:
        continuation: how the servers are made to continue an answer.
    """

    def __init__(self, endpoint: Endpoint, *, patience: float) -> None:
        self._endpoint = endpoint
        self._patience = min(patience, _LONGEST_BUSY)
        self.continuation = CONTINUATIONS[0]
        self._continues: _Replies | None = None

    async def choose(self, wanted: Sequence[Form], dialect: Dialect) -> tuple[Form, str]:
        """Returns the first form that all servers serve, and how that was found, in words.

        A server that cannot be reached has no say, as long as another one can.

        Args:
            wanted: forms, the best first.
            dialect: how requests are written.

        Raises:
            FittestError: there is no such form, or no server can be asked for any.
        """
        tried: list[_Replies] = []
        async with self._endpoint:
            for form in wanted:
                replies = await self._replies(form, dialect)
                if not _words(replies):
                    # a server that is late may refuse yet, and this must then end the run and not fail each proposal
                    late = [server for server, reply in replies.items() if reply.late]
                    for server in replies.keys() - set(late):
                        self._endpoint.note_answer(server, _ROLE)
                    waited = f"within {_TRIAL_SECONDS:g} s, and not refused"
                    why = [*_words(*tried), *(f"{server.url} has not answered {waited}" for server in late)]
                    return form, "; ".join(why) or f"there is {_SERVED[form]}"
                tried.append(replies)
        raise self._dead_end(wanted, tried)

    async def _replies(self, form: Form, dialect: Dialect) -> _Replies:
        if form == "completion":
            return await self._ask_all(_TEXT, dialect)
        chats = await self._ask_all(_CHAT, dialect)
        if form == "chat" or _words(chats):
            return chats
        self._continues = {server: _continued(reply, reply) for server, reply in chats.items()}
        if _words(self._continues):
            return self._continues  # without the tokens of the plain chat there is nothing to compare with
        for continuation in CONTINUATIONS:
            begun = await self._ask_all(_BEGUN, replace(dialect, continuation=continuation))
            self._continues = {server: _continued(chats.get(server, reply), reply) for server, reply in begun.items()}
            if not _words(self._continues):
                self.continuation = continuation
                break
        return self._continues

    async def learn_to_continue(self, dialect: Dialect) -> None:
        """Finds out how the servers continue an answer, unless this is known; a run that goes on may need to know.

        Args:
            dialect: how requests are written.
        """
        if self._continues is None:
            async with self._endpoint:
                await self._replies("prefill", dialect)

    def _dead_end(self, wanted: Sequence[Form], tried: Sequence[_Replies]) -> Exception:
        """Returns the error for servers that serve no form, with what to change about the last one."""
        for server, reply in tried[-1].items():
            if reply.error is not None:
                path = "/completions" if wanted[-1] == "completion" else "/chat/completions"
                verdict = self._endpoint.verdict(server, path, _ROLE, reply.error)
                if isinstance(verdict, FittestError):
                    return verdict
        return FittestError("; ".join(_words(*tried)))

    async def _ask_all(self, request: Request, dialect: Dialect) -> _Replies:
        """Asks all servers at once; those that cannot be reached are left out."""
        path, body = dialect.path_and_body(request)
        servers = self._endpoint.servers.all
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {server: group.create_task(self._asked(server, path, body)) for server in servers}
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        found = {server: task.result() for server, task in tasks.items()}
        replies = {server: reply for server, reply in found.items() if isinstance(reply, _Reply)}
        if not replies:
            raise FittestError(
                "; ".join(f"{server.url} gives no token: {trouble}" for server, trouble in found.items())
            )
        return replies

    async def _asked(self, server: Server, path: str, body: bytes) -> _Reply | Trouble:
        """Asks one server, again while it is busy; returns Trouble if it is not there, or is busy for too long."""
        until = time.monotonic() + self._patience
        tries = 0
        while True:
            try:
                tokens = await self._endpoint.send_once(server, path, body, _tokens_read, seconds=_TRIAL_SECONDS)
            except RequestFailedError as error:
                if isinstance(error, Refused) and error.cut:
                    return _Reply(None)
                refused = isinstance(error, Refused) and error.status in NOT_SERVED
                return _Reply(error, f"has no {path} ({error})" if refused else f"refuses {path} ({error})")
            except Trouble as trouble:
                tries += 1
                if trouble.cause is Cause.TIMEOUT:
                    return _Reply(None, late=True)  # most servers refuse at once what they do not serve
                if trouble.cause is Cause.UNREACHABLE or time.monotonic() > until:
                    return trouble
                if trouble.cause is not Cause.BUSY and tries >= _TRIES:
                    # some servers have no better word for what they cannot do
                    return _Reply(RequestFailedError(str(trouble)), f"fails at {path} ({trouble})")
                await asyncio.sleep(pause(tries, _LONGEST_WAIT))
            else:
                return _Reply(None, tokens=tokens)


def _words(*replies: _Replies) -> list[str]:
    """Returns why servers do not serve what they were asked for; nothing if all of them do."""
    told = [f"{server.url} {reply.words}" for of_form in replies for server, reply in of_form.items() if reply.words]
    return list(dict.fromkeys(told))


def _continued(chat: _Reply, begun: _Reply) -> _Reply:
    """Returns the reply to a chat whose answer is begun, with words if the server begins a new message instead.

    The number of tokens that it has read shows this: a new message has a header of its own.
    """
    if begun.words:
        return begun
    if chat.late or begun.late:
        return _Reply(None, "has not answered in time, so nothing shows whether it continues an answer")
    if not (chat.tokens and begun.tokens):
        return _Reply(None, "counts no tokens, so nothing shows whether it continues an answer")
    if begun.tokens - chat.tokens > _TOKENS_OF_A_WORD:
        return _Reply(None, "begins a new answer in place of continuing one")
    return begun


def _tokens_read(reply: Mapping[str, Any]) -> int:
    counted = [answer.prompt_tokens for answer in completions_of(reply) if isinstance(answer, Completion)]
    return sum(counted)
