"""Any OpenAI-compatible endpoint (vLLM, SGLang, llama-server, hosted ones), on one server or several, over aiohttp."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from evo.backends.openai_format import body_of, completions_of, error_words, one_line, path_of, refusal, reply_of
from evo.backends.servers import BROKEN, BUSY, TIMEOUT, UNREACHABLE, Server, Servers, Trouble, pause
from evo.errors import FittestError, RequestFailedError
from evo.records import Completion, Failure, Message, Request, Sampling

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 30.0
LONGEST_WAIT = 8.0
SHORTEST_SECRET = 8
ONE_TOKEN = Request("judge", Sampling(max_tokens=1), seed=0, messages=(Message("user", "Say hello."),))


class OpenAI:
    """A model behind one or several servers; the same request is sent until it is answered or refused for good.

    The fingerprint is the model's name alone: a run goes on with the same model on other servers. Whether they serve
    the same weights under that name is for whoever runs them to know.

    Args:
        base_url: each up to and including `/v1`.
        model: the name that the servers know it by.
        api_key_env: the environment variable that holds the key; without it no key is sent.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before the engine counts as lost.

    Raises:
        FittestError: the key or aiohttp is not there.
    """

    def __init__(
        self,
        *,
        base_url: Sequence[str],
        model: str,
        api_key_env: str | None = None,
        slots: int = 16,
        timeout: float = 600.0,
        patience: float = 300.0,
    ) -> None:
        try:
            import aiohttp  # noqa: F401 - a missing library is named before a run begins
        except ImportError:
            raise FittestError('engine.kind = "openai" needs aiohttp: pip install "fittest[openai]"') from None
        self.fingerprint = f"openai:{model}"
        self.slots = slots
        self._model = model
        self._timeout = timeout
        self._key_name = api_key_env
        self._key = _key(api_key_env)
        self._servers = Servers(
            [url.rstrip("/") for url in base_url],
            slots=slots,
            probe=self._answers,
            patience=patience,
            timeout=timeout,
        )
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        import aiohttp

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
        await self._servers.close()
        await self._session.close()

    async def sample(self, request: Request) -> Completion:
        """Answer one request; how often it had to be sent does not change what is asked."""
        (reply,) = await self.sample_together([request])
        if isinstance(reply, Failure):
            raise RequestFailedError(reply.reason)
        return reply

    async def sample_together(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Answer requests that differ in sample and seed alone as the choices of one.

        Raises:
            FittestError: the server gives fewer choices than it was asked for.
        """
        path, body = path_of(requests[0]), body_of(requests[0], self._model, len(requests))
        tries = 0
        while True:
            server = await self._servers.take()
            sent_at = time.monotonic()
            try:
                replies = completions_of(await self._ask(server, path, body, self._timeout))
            except Trouble as trouble:
                self._servers.failed(server, trouble, sent_at=sent_at)
                kind = trouble.kind
                # what happens at a server that is out of order says nothing about the request
                tries += not server.down
                if tries >= kind.tries:
                    raise RequestFailedError(f"{trouble} ({tries} tries)") from None
            except RequestFailedError as error:
                self._servers.answered(server)
                raise RequestFailedError(self._words(str(error))) from None
            else:
                server.served = True
                self._servers.answered(server)
                if len(replies) < len(requests):
                    raise FittestError(
                        f"{server.url} gives {len(replies)} of {len(requests)} samples asked for in one request; set"
                        " engine.samples_per_request = 1"
                    )
                return [self._without_key(reply) for reply in replies[: len(requests)]]
            finally:
                self._servers.release(server)
            if kind is not BUSY:
                await asyncio.sleep(pause(tries, LONGEST_WAIT))

    def _without_key(self, reply: Completion | Failure) -> Completion | Failure:
        if isinstance(reply, Failure):
            return Failure(self._words(reply.reason))
        # keys as short as "EMPTY" are placeholders, and words that an answer may hold
        return replace(reply, text=self._hidden(reply.text)) if len(self._key) >= SHORTEST_SECRET else reply

    @property
    def trouble(self) -> str | None:
        """What the servers say while all of them are out of order."""
        return self._servers.said if all(server.down for server in self._servers.all) else None

    async def try_out(self) -> None:
        """Ask each server for one token.

        Raises:
            FittestError: which server gave none, and what it said.
        """
        async with self:
            for server in self._servers.all:
                try:
                    await self._ask(server, path_of(ONE_TOKEN), body_of(ONE_TOKEN, self._model), self._timeout)
                except (Trouble, RequestFailedError) as error:
                    raise FittestError(f"{server.url} gives no token: {error}") from None

    async def _answers(self, server: Server) -> bool:
        """Whether a server that was out of order gives a token again; a refusal is an answer too."""
        try:
            seconds = min(self._timeout, PROBE_SECONDS)
            await self._ask(server, path_of(ONE_TOKEN), body_of(ONE_TOKEN, self._model), seconds)
        except Trouble as trouble:
            server.last_words = str(trouble)
            return False
        except (RequestFailedError, FittestError):
            return True
        return True

    async def _ask(self, server: Server, path: str, body: bytes, seconds: float) -> dict[str, Any]:
        """Send a request once; the reply has at least one choice."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.post(
                f"{server.url}{path}", data=body, timeout=timeout, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Trouble(UNREACHABLE, self._words(str(error))) from None
        except TimeoutError:
            raise Trouble(TIMEOUT, f"no reply within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(BROKEN, f"connection broke: {self._words(str(error)) or type(error).__name__}") from None
        if response.status == HTTPStatus.OK:
            reply = reply_of(content)
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
                else "name the environment variable that holds the key: engine.api_key_env"
            )
            return FittestError(f"{server.url}: {words}; {remedy}")
        if status == HTTPStatus.PAYMENT_REQUIRED or b"insufficient_quota" in content:
            return FittestError(f"{server.url}: {words}")
        if 300 <= status < 400:
            location = self._words(response.headers.get("Location", "elsewhere"))
            return FittestError(f"{server.url} redirects to {location}; set engine.base_url to where the servers are")
        if status == HTTPStatus.NOT_FOUND and not server.served:
            # journalled as the failure of every request, this mistake would outlive its correction
            return FittestError(
                f"{server.url}: {words}; does engine.base_url end in /v1, and is engine.model = {self._model!r} there?"
            )
        return refusal(status, response.headers, words)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _words(self, text: str) -> str:
        """A server's words in one line, without the key."""
        return one_line(self._hidden(text))


def _key(name: str | None) -> str:
    """The key, or nothing where none is asked for."""
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise FittestError(f"engine.api_key_env: the environment variable {name} is not set")
    if not (key.isascii() and key.isprintable()):
        raise FittestError(f"engine.api_key_env: the environment variable {name} holds characters that no key has")
    return key
