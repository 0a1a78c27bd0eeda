"""Asks servers over HTTP with aiohttp: a request is sent, to one server or another, until it is answered or refused.

aiohttp needs a tenth of the CPU per request that httpx or the official client need.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fittest.evo.backends.openai_format import error_words, one_line, refusal, reply_of
from fittest.evo.backends.servers import Cause, Server, Servers, Trouble, pause
from fittest.evo.errors import FittestError, RequestFailedError

if TYPE_CHECKING:
    import aiohttp

# a server that accepts no connection for this long is down, however long an answer may take
_CONNECT_SECONDS = 10.0
# a probe asks for one token; it must not wait for the minutes that a long answer may take
_PROBE_SECONDS = 30.0
_LONGEST_WAIT = 8.0
_SHORTEST_SECRET = 8
# the answers of a server that does not know the path or the model
_NOT_SERVED = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}

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
    ) -> None:
        self._setting = setting or f"{section}.base_url"
        if find_spec("aiohttp") is None:
            raise FittestError(f'{self._setting} needs aiohttp: pip install "fittest[openai]"')
        self._section = section
        self._timeout = timeout
        self._key_name = api_key_env
        self._key = _key(api_key_env, section)
        self._items = items
        self._item = item
        self._probe = probe
        self._hint = hint
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

    async def __aenter__(self) -> Self:
        import aiohttp

        self._users += 1
        if self._users > 1:
            return self
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            # uvicorn closes a connection that is idle for 5 s: a request sent at that moment would be lost;
            # no limit on connections, since `Servers` already limits the requests in flight
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
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

    async def ask(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], _Read]) -> _Read:
        """Sends a request until it is answered, and returns what `read` makes of the reply.

        Args:
            path: the path on the server.
            body: the request; it is the same at every try.
            read: reads a reply; it may raise Trouble to have the request sent again, or RequestFailedError.

        Raises:
            RequestFailedError: this request can never succeed.
            EngineLostError: no server answers any longer.
            FittestError: no other request would succeed either, for example because the key is wrong.
        """
        tries = 0
        while True:
            server = await self.servers.take()
            sent_at = time.monotonic()
            try:
                found = read(await self._send(server, path, body, self._timeout))
            except Trouble as trouble:
                self.servers.failed(server, trouble, sent_at=sent_at)
                cause = trouble.cause
                # what happens at a server that is out of order says nothing about the request
                tries += not server.down
                if tries >= cause.tries:
                    raise RequestFailedError(f"{trouble} ({tries} tries)") from None
            except RequestFailedError as error:
                self.servers.answered(server)
                raise RequestFailedError(self._words(str(error))) from None
            else:
                server.served = True
                self.servers.answered(server)
                return found
            finally:
                self.servers.release(server)
            # a busy server is paused for everybody by `Servers`; the request itself may go to another one at once
            if cause is not Cause.BUSY:
                await asyncio.sleep(pause(tries, _LONGEST_WAIT))

    @property
    def trouble(self) -> str | None:
        """Returns what the servers say while all of them are out of order; None while one of them works."""
        return self.servers.said if all(server.down for server in self.servers.all) else None

    async def try_out(self, wanted: str, read: Callable[[Mapping[str, Any]], object]) -> None:
        """Sends the probe to each server once.

        Args:
            wanted: the name of what a reply holds, for the error.
            read: reads a reply, as in `ask`.

        Raises:
            FittestError: a server gave no usable reply; the error names it and says what it said.
        """
        async with self:
            for server in self.servers.all:
                try:
                    read(await self._send(server, *self._probe, self._timeout))
                except (Trouble, RequestFailedError) as error:
                    raise FittestError(f"{server.url} gives no {wanted}: {error}") from None

    def hidden(self, text: str) -> str:
        """Returns a text of a server without the key, since some servers repeat it."""
        # a key as short as "EMPTY" is a placeholder, and also a word that an answer may hold
        return self._without_key(text) if len(self._key) >= _SHORTEST_SECRET else text

    async def _answers(self, server: Server) -> bool:
        """Tells whether a server that was out of order works again; a refusal is an answer too."""
        try:
            await self._send(server, *self._probe, min(self._timeout, _PROBE_SECONDS))
        except Trouble as trouble:
            server.last_words = str(trouble)
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
                f"{server.url}{path}", data=body, timeout=_within(seconds), allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Trouble(Cause.UNREACHABLE, self._words(str(error))) from None
        except TimeoutError:
            raise Trouble(Cause.TIMEOUT, f"no reply within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(
                Cause.BROKEN, f"connection broke: {self._words(str(error)) or type(error).__name__}"
            ) from None
        if response.status == HTTPStatus.OK:
            reply = reply_of(content, self._items, self._item)
            if reply is not None:
                return reply
            # some servers say 200 and put the error into the body
            raise refusal(HTTPStatus.INTERNAL_SERVER_ERROR, {}, self._words(error_words(content)))
        raise self._refusal(server, response, content)

    def _refusal(self, server: Server, response: aiohttp.ClientResponse, content: bytes) -> Exception:
        status = response.status
        words = self._words(f"{status} {response.reason or ''}: {error_words(content)}").removesuffix(":")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            remedy = (
                f"check the key in the environment variable {self._key_name}"
                if self._key_name
                else f"name the environment variable that holds the key: {self._section}.api_key_env"
            )
            return FittestError(f"{server.url}: {words}; {remedy}")
        if status == HTTPStatus.PAYMENT_REQUIRED or b"insufficient_quota" in content:
            return FittestError(f"{server.url}: {words}")
        if 300 <= status < 400:
            location = self._words(response.headers.get("Location", "elsewhere"))
            return FittestError(f"{server.url} redirects to {location}; set {self._setting} to where the servers are")
        if status in _NOT_SERVED and not server.served:
            # a wrong address ends the run: as a failure in the journal it would outlive its correction
            return FittestError(f"{server.url}: {words}; {self._hint}")
        return refusal(status, response.headers, words)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _words(self, text: str) -> str:
        """Writes a server's words in one line, without the key."""
        return one_line(self._without_key(text))


@lru_cache
def _within(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)


def _key(name: str | None, section: str) -> str:
    """Reads the key from the environment; the empty string where none is needed."""
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise FittestError(f"{section}.api_key_env: the environment variable {name} is not set")
    if not (key.isascii() and key.isprintable()):
        raise FittestError(f"{section}.api_key_env: the environment variable {name} holds characters that no key has")
    return key
