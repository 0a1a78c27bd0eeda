"""Servers asked over HTTP, through aiohttp: a request is sent, to one or another, until it is answered or refused."""

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
from fittest.evo.backends.servers import BROKEN, BUSY, TIMEOUT, UNREACHABLE, Server, Servers, Trouble, pause
from fittest.evo.errors import FittestError, RequestFailedError

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 30.0
LONGEST_WAIT = 8.0
SHORTEST_SECRET = 8
NOT_SERVED = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}

T = TypeVar("T")


class Endpoint:
    """One or several servers of the same model, for everything that asks a server: engines and rewards.

    Entered before the first request and left after the last; entered twice, it stays open until it is left twice.

    Args:
        section: the table of run.toml that errors name: "engine" or "reward".
        base_url: where the paths of requests begin, of each server.
        api_key_env: the environment variable that holds the key; without it no key is sent.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before they count as lost.
        items: the key of a reply under which there is a list with at least one item.
        probe: path and body of the smallest request there is, which tells whether a server works.
        hint: what to look at when a server has never served and does not know the path or the model.

    Raises:
        FittestError: the key or aiohttp is not there.
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
    ) -> None:
        if find_spec("aiohttp") is None:
            raise FittestError(f'{section}.base_url needs aiohttp: pip install "fittest[openai]"')
        self._section = section
        self._timeout = timeout
        self._key_name = api_key_env
        self._key = _key(api_key_env, section)
        self._items = items
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
            setting=f"{section}.base_url",
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
            # uvicorn closes what is idle for 5 s: a request sent at that moment would be lost
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
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

    async def ask(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], T]) -> T:
        """What `read` makes of the reply; how often the request had to be sent does not change what is asked.

        `read` may raise the errors of a server: Trouble for another try, RequestFailedError for none.

        Raises:
            RequestFailedError: this request can never succeed.
            EngineLostError: no server answers any longer.
            FittestError: no other request would fare better, such as with a wrong key.
        """
        tries = 0
        while True:
            server = await self.servers.take()
            sent_at = time.monotonic()
            try:
                found = read(await self._send(server, path, body, self._timeout))
            except Trouble as trouble:
                self.servers.failed(server, trouble, sent_at=sent_at)
                kind = trouble.kind
                # what happens at a server that is out of order says nothing about the request
                tries += not server.down
                if tries >= kind.tries:
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
            if kind is not BUSY:
                await asyncio.sleep(pause(tries, LONGEST_WAIT))

    @property
    def trouble(self) -> str | None:
        """What the servers say while all of them are out of order."""
        return self.servers.said if all(server.down for server in self.servers.all) else None

    async def try_out(self, wanted: str, read: Callable[[Mapping[str, Any]], object]) -> None:
        """Send each server the smallest request there is, whose answer `wanted` names in the error.

        Raises:
            FittestError: which server gives none, and what it said.
        """
        async with self:
            for server in self.servers.all:
                try:
                    read(await self._send(server, *self._probe, self._timeout))
                except (Trouble, RequestFailedError) as error:
                    raise FittestError(f"{server.url} gives no {wanted}: {error}") from None

    def hidden(self, text: str) -> str:
        """A text of a server without the key; one as short as "EMPTY" is a placeholder, and a word of its own."""
        return self._without_key(text) if len(self._key) >= SHORTEST_SECRET else text

    async def _answers(self, server: Server) -> bool:
        """Whether a server that was out of order works again; a refusal is an answer too."""
        try:
            await self._send(server, *self._probe, min(self._timeout, PROBE_SECONDS))
        except Trouble as trouble:
            server.last_words = str(trouble)
            return False
        except (RequestFailedError, FittestError):
            return True
        return True

    async def _send(self, server: Server, path: str, body: bytes, seconds: float) -> dict[str, Any]:
        """Send a request once; the reply has at least one item."""
        import aiohttp

        try:
            async with self._session.post(
                f"{server.url}{path}", data=body, timeout=_within(seconds), allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Trouble(UNREACHABLE, self._words(str(error))) from None
        except TimeoutError:
            raise Trouble(TIMEOUT, f"no reply within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(BROKEN, f"connection broke: {self._words(str(error)) or type(error).__name__}") from None
        if response.status == HTTPStatus.OK:
            reply = reply_of(content, self._items)
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
            return FittestError(
                f"{server.url} redirects to {location}; set {self._section}.base_url to where the servers are"
            )
        if status in NOT_SERVED and not server.served:
            # journalled as the failure of every request, this mistake would outlive its correction
            return FittestError(f"{server.url}: {words}; {self._hint}")
        return refusal(status, response.headers, words)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _words(self, text: str) -> str:
        """A server's words in one line, without the key."""
        return one_line(self._without_key(text))


@lru_cache
def _within(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)


def _key(name: str | None, section: str) -> str:
    """The key, or nothing where none is asked for."""
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise FittestError(f"{section}.api_key_env: the environment variable {name} is not set")
    if not (key.isascii() and key.isprintable()):
        raise FittestError(f"{section}.api_key_env: the environment variable {name} holds characters that no key has")
    return key
