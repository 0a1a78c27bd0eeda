"""The servers of one engine: which is asked next, how much each is given at once, and what becomes of a dead one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fittest.evo.errors import EngineLostError

TROUBLES_TO_GO_DOWN = 3
LONGEST_PAUSE = 30.0
LONGEST_PROBE_PAUSE = 10.0
_jitter = random.Random()  # spreads retries; decides no result


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of trouble that may pass.

    `tries`: how often one request may meet it, at servers that answer others, before the request itself is to blame.
    `slows`: the server is given less to do, and a pause.
    """

    tries: int
    slows: bool


BUSY = Kind(tries=100, slows=True)
FAULT = Kind(tries=8, slows=True)
TIMEOUT = Kind(tries=3, slows=True)
BROKEN = Kind(tries=8, slows=False)
UNREACHABLE = Kind(tries=8, slows=False)


class Trouble(Exception):  # noqa: N818 - not the last word on the request
    """A request was not answered, but may be at another try."""

    def __init__(self, kind: Kind, words: str, *, retry_after: float | None = None) -> None:
        super().__init__(words)
        self.kind = kind
        self.retry_after = retry_after


def pause(times: int, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, with jitter."""
    return _jitter.uniform(0.5, 1.0) * min(0.25 * 2.0 ** min(times, 16), longest)


@dataclass(slots=True, eq=False)
class Server:
    """One server. `limit` is how many requests it is given at once: at most `share`, and fewer while it complains.

    `served`: it has given a completion. `troubles` and `slowings` count what happened since it last answered.
    """

    url: str
    share: int
    limit: float
    in_flight: int = 0
    served: bool = False
    down: bool = False
    troubles: int = 0
    slowings: int = 0
    slowed_at: float = 0.0
    paused_until: float = 0.0
    unwell_since: float | None = None
    last_words: str = ""
    revival: asyncio.Task[None] | None = None


class Servers:
    """Balances requests by load; concurrency adds one per round of answers and halves when a server complains.

    A server that cannot be reached, or fails several times in a row, is taken out and asked for one token now and
    then; the first answer brings it back.

    Args:
        urls: the servers.
        slots: requests in flight at once, shared out evenly.
        probe: whether a server answers again.
        patience: seconds without any answer after which servers that are down are given up; servers that are only
            busy have `timeout` longer, in which all that was sent to them before must have ended.
        timeout: seconds after which a request ends in any case.
        setting: the key of run.toml that names the servers.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        slots: int,
        probe: Callable[[Server], Awaitable[bool]],
        patience: float,
        timeout: float,
        setting: str = "engine.base_url",
    ) -> None:
        share = -(-slots // len(urls))
        self.all = [Server(url, share, share) for url in urls]
        self._probe = probe
        self._patience = patience
        self._timeout = timeout
        self._setting = setting
        self._waiting: deque[asyncio.Future[Server]] = deque()

    @property
    def said(self) -> str:
        """The last trouble of each server, in its own words."""
        return ", ".join(f"{server.url} ({server.last_words})" for server in self.all)

    async def take(self) -> Server:
        """The least loaded server with room, as soon as there is one, first come, first served; `release` it after.

        Raises:
            EngineLostError: all servers have been out of order for too long.
        """
        if not self._waiting and (server := self._least_loaded()) is not None:
            server.in_flight += 1
            return server
        place: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            while not (await asyncio.wait([place], timeout=min(1.0, self._patience / 4)))[0]:
                self._give_up_if_lost()
        except BaseException:
            if place.cancel():
                self._waiting.remove(place)
            else:
                self.release(place.result())
            raise
        return place.result()

    def release(self, server: Server) -> None:
        """Make room for the next request."""
        server.in_flight -= 1
        self._admit()

    def answered(self, server: Server) -> None:
        """Note that a server works; it may be given one request more after a round of answers."""
        server.down, server.unwell_since = False, None
        server.troubles = server.slowings = 0
        server.limit = min(server.share, server.limit + 1.0 / server.limit)

    def failed(self, server: Server, trouble: Trouble, *, sent_at: float) -> None:
        """Note that a server did not answer a request sent at a time of the monotonic clock.

        Raises:
            EngineLostError: all servers have been out of order for too long.
        """
        now = time.monotonic()
        server.last_words = str(trouble)
        server.unwell_since = server.unwell_since or now
        server.troubles += 1
        # what was sent before the last slowing does not count again: sixteen refusals at once are one complaint
        if trouble.kind.slows and sent_at >= server.slowed_at:
            server.slowings += 1
            server.slowed_at = now
            server.limit = max(1.0, server.limit / 2)
            if trouble.retry_after is None:
                self._pause(server, now + pause(server.slowings))
        if trouble.retry_after is not None:
            self._pause(server, now + trouble.retry_after)
        if trouble.kind is UNREACHABLE or (trouble.kind is not BUSY and server.troubles >= TROUBLES_TO_GO_DOWN):
            server.down = True
            if server.revival is None or server.revival.done():
                server.revival = asyncio.create_task(self._revive(server))
        self._give_up_if_lost()

    async def close(self) -> None:
        """Stop asking whether dead servers live; what begins while this waits is left alone."""
        revivals = [server.revival for server in self.all if server.revival is not None]
        for server in self.all:
            # nobody looks after it until the next request does
            server.down, server.unwell_since, server.revival = False, None, None
        for revival in revivals:
            revival.cancel()
        await asyncio.gather(*revivals, return_exceptions=True)

    def _least_loaded(self) -> Server | None:
        now = time.monotonic()
        free = [s for s in self.all if not s.down and s.in_flight < int(s.limit) and s.paused_until <= now]
        return min(free, key=lambda server: server.in_flight / server.limit, default=None)

    def _admit(self) -> None:
        """Hand out whatever room there is to those who wait."""
        while self._waiting and (server := self._least_loaded()) is not None:
            server.in_flight += 1
            self._waiting.popleft().set_result(server)

    def _pause(self, server: Server, until: float) -> None:
        server.paused_until = max(server.paused_until, until)
        # a little late, so that the pause is over by the clock when it is looked at
        asyncio.get_running_loop().call_later(server.paused_until - time.monotonic() + 0.001, self._admit)

    async def _revive(self, server: Server) -> None:
        tries = 0
        while server.down:
            await asyncio.sleep(pause(tries, LONGEST_PROBE_PAUSE))
            tries += 1
            if server.down and await self._probe(server):
                self.answered(server)
        self._admit()

    def _give_up_if_lost(self) -> None:
        now = time.monotonic()
        for server in self.all:
            patience = self._patience + (0.0 if server.down else self._timeout)
            if server.unwell_since is None or now - server.unwell_since <= patience:
                return
        raise EngineLostError(
            f"no server has answered for {self._patience:g} s: {self.said}; bring one back, or name another with"
            f" --set {self._setting}=URL"
        )
