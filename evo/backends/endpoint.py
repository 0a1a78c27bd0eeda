"""Asks servers over HTTP with aiohttp: a request is sent, to one server or another, until it is answered or refused.

aiohttp needs a tenth of the CPU per request that httpx or the official client need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlencode

from fittest.evo.backends.bodies import MIB, body_of
from fittest.evo.backends.connections import connections
from fittest.evo.backends.credentials import Credentials
from fittest.evo.backends.in_a_row import InARow
from fittest.evo.backends.openai_format import (
    NOT_SERVED,
    Refused,
    error_words,
    parameter_in,
    refusal,
    reply_of,
)
from fittest.evo.backends.servers import Cause, Server, Servers, Trouble, pause
from fittest.evo.errors import FittestError, RequestFailedError

if TYPE_CHECKING:
    import aiohttp

# a server that accepts no connection for this long is down, however long an answer may take
_CONNECT_SECONDS = 10.0
# a probe asks for one token; it must not wait for the minutes that a long answer may take
_PROBE_SECONDS = 30.0
_LONGEST_WAIT = 8.0

_Read = TypeVar("_Read")


class Endpoint:
    """Asks one or several servers of the same model; engines and rewards use it.

    It is entered before the first request and left after the last. If it is entered twice, it stays open until it has
    been left twice.

    Args:
        section: the table of run.toml that errors name: "engine" or "reward".
        base_url: the address of each server, to which the path of a request is added.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before they count as lost.
        items: the key of a reply that holds a list with at least one item.
        item: the type of the items of that list.
        probe: path and body of the smallest possible request, which shows whether a server works.
        hint: what to check when a server has never answered and does not know the path or the model.
        setting: the key of run.toml that names the servers; None: base_url of the section.
        headers_env: headers that are sent with each request, and the environment variables that hold their values.
        extra_query: parameters that are added to each address.
        remedy: says what to change, from status, path and words of a refusal, and whether the server has answered
            before; if None, the hint is all there is to say.
        counts_refusals: whether many refusals in a row end the run.
        max_reply_mib: the largest reply that is read, in MiB.

    Attributes:
        servers: the servers, and what is known of each.
        probe: as given.
        timeout: as given.

    Raises:
        FittestError: the key is not set, or aiohttp is not installed.
    """

    def __init__(
        self,
        *,
        section: str,
        base_url: Sequence[str],
        api_key_env: str | None,
        slots: int,
        timeout: float,
        patience: float,
        items: str,
        probe: tuple[str, bytes],
        hint: str,
        item: type = dict,
        setting: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        remedy: Callable[[int, str, str, bool], str] | None = None,
        counts_refusals: bool = True,
        max_reply_mib: int = 16,
    ) -> None:
        self._setting = setting or f"{section}.base_url"
        if find_spec("aiohttp") is None:
            raise FittestError(f'{self._setting} needs aiohttp: pip install "fittest[openai]"')
        self._section = section
        self.timeout = timeout
        self._credentials = Credentials(section, api_key_env, headers_env or {})
        self._query = f"?{urlencode(extra_query)}" if extra_query else ""
        self._items = items
        self._item = item
        self.probe = probe
        self._remedy = remedy or (lambda status, path, words, served: hint)
        # pairs of server and role: what a server has answered once, it is able to answer
        self._answered: set[tuple[str, str]] = set()
        self._most = max_reply_mib * MIB
        self._users = 0
        self._session: aiohttp.ClientSession
        self.servers = Servers(
            [url.rstrip("/") for url in base_url],
            slots=slots,
            probe=self._answers,
            patience=patience,
            timeout=timeout,
            setting=self._setting,
        )
        self._in_a_row = InARow(self.servers, counts_refusals=counts_refusals)

    async def __aenter__(self) -> Self:
        import aiohttp

        self._users += 1
        if self._users > 1:
            return self
        self._session = aiohttp.ClientSession(
            # what is unpacked here is limited here, and a reply of a few kilobytes is not worth packing
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **self._credentials.headers},
            auto_decompress=False,
            connector=connections(),
            # a cookie of one reply would change the next request, which must depend on its own content alone
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users:
            return
        session = self._session  # while this waits, the next user may open another
        try:
            await self.servers.close()
        finally:
            await session.close()

    async def ask(
        self,
        path: str,
        body: bytes,
        read: Callable[[Mapping[str, Any]], _Read],
        *,
        role: str | None = None,
        subject: str | None = None,
        samples: int = 1,
        refusal_in: Callable[[_Read], str | None] | None = None,
    ) -> _Read:
        """Sends a request until it is answered, and returns what `read` makes of the reply.

        Until a server has answered a role once, a refusal that is not about this one request ends the run, since it
        would meet every other request as well. Afterwards a refusal is about the request, unless many come in a row.

        A request that troubles every server fails once others have been answered in the meantime. If none has, that
        is an outage, which lasts until the patience is at its end.

        Args:
            path: the path on the server.
            body: the request; it is the same at every try.
            read: reads a reply; it may raise Trouble to have the request sent again, or RequestFailedError.
            role: what the request is part of; if None, a refusal is always about the request.
            subject: the text that the requests of one prompt share. They go to one server while it has room, and
                their refusals in a row are counted once.
            samples: how many samples the request asks for.
            refusal_in: returns the reason why what was read answers nothing; None if it does.

        Raises:
            RequestFailedError: this request can never succeed.
            EngineLostError: no server answers any longer.
            FittestError: no other request would succeed either, for example because the key is wrong.
        """
        self._in_a_row.asking += 1
        try:
            return await self._answer(path, body, read, role, subject, samples, refusal_in)
        finally:
            self._in_a_row.asking -= 1

    async def _answer(
        self,
        path: str,
        body: bytes,
        read: Callable[[Mapping[str, Any]], _Read],
        role: str | None,
        subject: str | None,
        samples: int,
        refusal_in: Callable[[_Read], str | None] | None,
    ) -> _Read:
        tries, began, answers = 0, time.monotonic(), self._in_a_row.answers
        while True:
            server = await self.servers.take(subject, samples)
            sent_at = time.monotonic()
            try:
                found = self._understood(read, await self._send(server, path, body, self.timeout))
            except Trouble as trouble:
                self.servers.failed(server, trouble, sent_at=sent_at)
                cause = trouble.cause
                # what happens at a server that is busy or out of order says nothing about the request
                tries += cause is not Cause.BUSY and not server.down
                enough = tries >= cause.tries
                if enough and self._in_a_row.fails_alone(subject or body, answers=answers, began=began):
                    raise RequestFailedError(f"{trouble} ({tries} tries)") from None
            except RequestFailedError as error:
                self.servers.answered(server, samples)
                verdict = self.verdict(server, path, role, error)
                if isinstance(verdict, RequestFailedError):
                    self._in_a_row.refused(server.url, role, subject, str(verdict))
                raise verdict from None
            else:
                refused = None if refusal_in is None else refusal_in(found)
                if refused is None:
                    self.note_answer(server, role, samples)
                else:
                    self._note_served(server, role, samples)
                    self._in_a_row.refused(server.url, role, subject, self._credentials.words(refused))
                return found
            finally:
                self.servers.release(server, samples)
            # a busy server is paused for everybody by `Servers`; the request itself may go to another one at once
            if cause is not Cause.BUSY:
                await asyncio.sleep(pause(tries, _LONGEST_WAIT))

    @property
    def waits(self) -> str | None:
        """Says how many requests wait for which servers, and for how long; None while servers take them."""
        return self.servers.waits

    @property
    def notes(self) -> list[str]:
        """Returns what a user should know of the servers afterwards."""
        return list(self.servers.notes.values())

    @property
    def trouble(self) -> str | None:
        """Returns what the servers say while all of them are out of order; None while one of them works."""
        return self.servers.said if all(server.down for server in self.servers.all) else None

    async def send_once(
        self, server: Server, path: str, body: bytes, read: Callable[[Mapping[str, Any]], _Read], *, seconds: float
    ) -> _Read:
        """Sends a request to one server once, and returns what `read` makes of the reply.

        It may raise Trouble, if another try may succeed, RequestFailedError, on which `verdict` has the last word, and
        FittestError, if the server would refuse everything.

        Args:
            server: the server.
            path: the path on the server.
            body: the request.
            read: reads a reply, as in `ask`.
            seconds: how long to wait for the reply.
        """
        return self._understood(read, await self._send(server, path, body, min(seconds, self.timeout)))

    def note_answer(self, server: Server, role: str | None, samples: int = 1) -> None:
        """Notes that a server has answered a request of a role.

        Args:
            server: the server.
            role: what the request was part of.
            samples: how many samples it gave.
        """
        self._note_served(server, role, samples)
        self._in_a_row.answered(role)

    def _note_served(self, server: Server, role: str | None, samples: int) -> None:
        server.served = True
        self.servers.answered(server, samples)
        if role is not None:
            self._answered.add((server.url, role))

    def verdict(self, server: Server, path: str, role: str | None, error: RequestFailedError) -> Exception:
        """Returns what the failure of a request means: that it fails alone, or that the run ends.

        Args:
            server: the server that refused it.
            path: the path on the server.
            role: what the request was part of; if None, the server need only have answered anything before.
            error: the failure.
        """
        failed = RequestFailedError(self._credentials.words(str(error)))
        if not isinstance(error, Refused) or error.alone:
            return failed
        forbidden, not_served = error.status == HTTPStatus.FORBIDDEN, error.status in NOT_SERVED
        answered = (server.served and not forbidden) if role is None else (server.url, role) in self._answered
        # a path or a model that is gone is gone for every text, whatever the server has answered before
        if answered and not not_served:
            return failed
        if forbidden:
            remedy = self._credentials.remedy
        elif role is None and not not_served:
            return failed
        else:
            remedy = self._remedy(error.status, path, error.said, server.served)
        # it ends the run: as a failure in the journal, a wrong address or parameter would outlive its correction
        return FittestError(f"{server.url}: {failed}; {self._credentials.hidden_in(remedy)}")

    def _understood(self, read: Callable[[Mapping[str, Any]], _Read], reply: Mapping[str, Any]) -> _Read:
        """Returns what `read` makes of a reply; what it says of one that it cannot use is without the key."""
        try:
            return read(reply)
        except FittestError as error:
            raise FittestError(self._credentials.hidden_in(str(error))) from None

    def hidden(self, text: str) -> str:
        """Returns a text of a model without the key and the headers, since some servers repeat them."""
        return self._credentials.hidden_in(text)

    async def _answers(self, server: Server) -> bool:
        """Tells whether a server that was out of order works again; a refusal is an answer too."""
        try:
            await self._send(server, *self.probe, min(self.timeout, _PROBE_SECONDS))
        except Trouble as trouble:
            server.last_words = str(trouble)
            server.unreachable = trouble.cause is Cause.UNREACHABLE
            return False
        except (RequestFailedError, FittestError):
            return True
        return True

    async def _send(self, server: Server, path: str, body: bytes, seconds: float) -> dict[str, Any]:
        """Sends a request once; the reply has at least one item."""
        import aiohttp

        try:
            # a redirected POST may arrive as a GET; the user is asked for the right address instead
            async with self._session.post(
                f"{server.url}{path}{self._query}", data=body, timeout=_within(seconds), allow_redirects=False
            ) as response:
                content = await body_of(response, self._most)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Trouble(Cause.UNREACHABLE, self._credentials.words(str(error))) from None
        except TimeoutError:
            raise Trouble(Cause.TIMEOUT, f"no reply within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(
                Cause.BROKEN, f"connection broke: {self._credentials.words(str(error)) or type(error).__name__}"
            ) from None
        if 200 <= response.status < 300:
            reply = reply_of(content, self._items, self._item, most=self._most)
            if reply is not None:
                return reply
            # some servers say 200 and put the error into the body
            raise refusal(HTTPStatus.INTERNAL_SERVER_ERROR, {}, self._credentials.words(error_words(content)))
        raise self._refusal(server, response, content)

    def _refusal(self, server: Server, response: aiohttp.ClientResponse, content: bytes) -> Exception:
        status = response.status
        if status < 200:
            return Trouble(Cause.BROKEN, f"the server answers with the status {status}, which is no answer")
        words = self._credentials.words(f"{status} {response.reason or ''}: {error_words(content)}").removesuffix(":")
        if status == HTTPStatus.UNAUTHORIZED:
            return FittestError(f"{server.url}: {words}; {self._credentials.remedy}")
        if status == HTTPStatus.PAYMENT_REQUIRED or b"insufficient_quota" in content:
            return FittestError(f"{server.url}: {words}")
        if 300 <= status < 400:
            location = self._credentials.words(response.headers.get("Location", "elsewhere"))
            return FittestError(f"{server.url} redirects to {location}; set {self._setting} to where the servers are")
        return refusal(status, response.headers, words, said=f"{error_words(content)} {parameter_in(content)}")


@lru_cache
def _within(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    connect = min(_CONNECT_SECONDS, seconds / 2)
    return aiohttp.ClientTimeout(total=seconds, connect=connect, sock_connect=connect)
