"""Balances requests over the servers of one engine, and brings back servers that have failed."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fittest.evo.backends.homes import Homes
from fittest.evo.errors import EngineLostError

_TROUBLES_TO_GO_DOWN = 3
_LONGEST_PAUSE = 30.0
# shorter than the pause of a busy server: while a server is down, only a probe can bring it back
_LONGEST_PROBE_PAUSE = 10.0
# a server that has never been there is a wrong address, or not started: nobody should wait for minutes to learn that
_LONGEST_ABSENCE = 10.0
# a prompt shall be remembered until its next round: eight prompts are worked on for each slot, and each of them has
# answers, which are prompts of the judge
_PROMPTS_KEPT_PER_SLOT = 64
_jitter = random.Random()  # not seeded by the run: it spreads retries in time, and decides no result


class Cause(Enum):
    """Names the causes of trouble that may pass (the table is in docs/design/feeding.md)."""

    BUSY = "busy"
    FAULT = "fault"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    UNREACHABLE = "unreachable"

    @property
    def tries(self) -> float:
        """Returns how often one request may meet it, at servers that answer others, before it counts as failed."""
        # a busy server says nothing against the request, so it is never the last word; each timeout keeps a slot for
        # `timeout` seconds, so there are few tries
        return {Cause.BUSY: math.inf, Cause.TIMEOUT: 3}.get(self, 8)

    @property
    def slows(self) -> bool:
        """Tells whether the server gets less to do, and a pause."""
        return self in (Cause.BUSY, Cause.FAULT, Cause.TIMEOUT)


class Trouble(Exception):  # noqa: N818 - not the last word on the request
    """Reports that a request was not answered, but may be at another try.

    Args:
        cause: why, which decides what follows for the request and the server.
        words: what the server said.
        retry_after: the seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, cause: Cause, words: str, *, retry_after: float | None = None) -> None:
        super().__init__(words)
        self.cause = cause
        self.retry_after = retry_after


def pause(times: int, longest: float = _LONGEST_PAUSE) -> float:
    """Returns the seconds to wait after this many failures in a row: doubled each time, with jitter."""
    # jitter, so that requests that failed together do not come back together; 2**16 keeps the power finite
    return _jitter.uniform(0.5, 1.0) * min(0.25 * 2.0 ** min(times, 16), longest)


@dataclass(slots=True, eq=False)
class Server:
    """Holds the state of one server.

    `limit` is how many samples it is asked for at once: at most `share`, and fewer while it complains. `in_flight`
    counts samples too. `served` says that it has given a completion. `unreachable` says that its last trouble was that
    it could not be reached. `troubles` and `slowings` count what happened since it last answered.
    """

    url: str
    share: int
    limit: float
    in_flight: int = 0
    served: bool = False
    down: bool = False
    unreachable: bool = False
    troubles: int = 0
    slowings: int = 0
    slowed_at: float = 0.0
    paused_until: float = 0.0
    unwell_since: float | None = None
    last_words: str = ""
    revival: asyncio.Task[None] | None = None

    def is_open(self, now: float) -> bool:
        """Tells whether it may be sent anything at this time of the monotonic clock."""
        return not self.down and self.paused_until <= now

    def waits(self, now: float) -> str:
        """Says for how long it is sent nothing more."""
        return "until it answers again" if self.down else f"{math.ceil(self.paused_until - now)} s more"


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Holds a place in the line of those who wait for a server."""

    key: str | None
    samples: int
    server: asyncio.Future[Server]


class Servers:
    """Sends the requests of one prompt to one server, and balances the prompts by load.

    A server keeps what it has read of a prompt, so that a second sample costs less there than elsewhere. A new prompt
    goes to the first server of its own order, and its next requests go where the last one went. Wherever there is no
    room, the least loaded server is taken instead: no slot stands empty so that a prompt is read only once.

    The limit of a server grows by one per round of answers and halves on a complaint. This is additive increase and
    multiplicative decrease, as in TCP: the limit finds what a server can bear without knowing its size. A server that
    cannot be reached, or fails several times in a row, is taken out and asked for one token now and then; the first
    answer brings it back.

    Args:
        urls: the addresses of the servers.
        slots: samples in flight at once, divided evenly.
        probe: tells whether a server answers again.
        patience: seconds without any answer after which servers that are down are given up. Servers that are only
            busy have `timeout` longer, since every request sent to them must have ended by then. Until one of the
            servers has answered, those that cannot be reached have 10 s at most. It is also the longest pause that a
            server may ask for.
        timeout: seconds after which a request ends in any case.
        setting: the key of run.toml that names the servers.

    Attributes:
        all: the servers.
        patience: as given.
        notes: what a user should know afterwards, by the server that it is about.
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
        share = -(-slots // len(urls))  # rounded up, so that every slot can be filled
        self.all = [Server(url, share, share) for url in urls]
        self.patience = patience
        self.notes: dict[str, str] = {}
        self._probe = probe
        self._timeout = timeout
        self._setting = setting
        self._waiting: deque[_Place] = deque()
        self._homes = Homes(urls, kept=_PROMPTS_KEPT_PER_SLOT * slots)
        self._answered = False

    @property
    def said(self) -> str:
        """Returns the last trouble of each server, in its own words."""
        return ", ".join(f"{server.url} ({server.last_words})" for server in self.all)

    @property
    def waits(self) -> str | None:
        """Says how many requests wait for which servers, and for how long still; None while servers take them."""
        number, now = sum(place.samples for place in self._waiting), time.monotonic()
        closed = [server for server in self.all if not server.is_open(now)]
        if not number or not closed:
            return None
        wait = "1 request waits" if number == 1 else f"{number} requests wait"
        return f"{wait} for {', '.join(f'{server.url} ({server.waits(now)})' for server in closed)}"

    async def take(self, key: str | None = None, samples: int = 1) -> Server:
        """Waits in line for a server with room, and returns it; the caller has to `release` it.

        Args:
            key: the text that the requests of one prompt share; None takes the least loaded server.
            samples: how many samples the request asks for.

        Raises:
            EngineLostError: all servers have been out of order for too long.
        """
        if not self._waiting and (server := self._choice(key, self._rooms())) is not None:
            self._give(server, key, samples)
            return server
        place = _Place(key, samples, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            # nothing wakes those who wait when the last server is lost, so they look by themselves
            while not (await asyncio.wait([place.server], timeout=min(1.0, self.patience / 4)))[0]:
                self._give_up_if_lost()
        except BaseException:
            # a server may have been given in the moment of the cancellation, and its slot must not be lost
            if place.server.cancel():
                self._waiting.remove(place)
            else:
                self.release(place.server.result(), samples)
            raise
        return place.server.result()

    def release(self, server: Server, samples: int = 1) -> None:
        """Makes room for the next request.

        Args:
            server: the server that was taken.
            samples: how many samples it was taken for.
        """
        server.in_flight -= samples
        self._admit()

    def best_next(self, waiting: Iterable[tuple[str | None, int]], room: float) -> list[int]:
        """Returns the positions of requests that should go now: all but those whose home has no room at the moment.

        Args:
            waiting: the requests in their order, each as its key and its number of samples.
            room: how many samples may go.
        """
        found: list[int] = []
        if len(self.all) == 1:
            return found
        left = self._rooms()
        room = min(room, sum(left.values()))
        for position, (key, samples) in enumerate(waiting):
            home = self._home(key)
            if home is not None and left.get(home, 0) <= 0:
                continue
            # a request that needs more room than there is waits for it; were others let by, it might wait for ever
            if samples > room or (server := self._choice(key, left)) is None:
                break
            found.append(position)
            left[server] -= samples
            room -= samples
            if room <= 0:
                break
        return found

    def answered(self, server: Server, samples: int = 1) -> None:
        """Notes that a server works; after a round of answers it is asked for one sample more.

        Args:
            server: the server.
            samples: how many samples it has given.
        """
        self._answered = True
        server.down, server.unwell_since = False, None
        server.troubles = server.slowings = 0
        # `limit` answers are one round, so this adds one per round
        server.limit = min(server.share, server.limit + samples / server.limit)

    def failed(self, server: Server, trouble: Trouble, *, sent_at: float) -> None:
        """Notes that a server did not answer a request.

        Args:
            server: the server.
            trouble: what happened.
            sent_at: the time of the monotonic clock at which the request was sent.

        Raises:
            EngineLostError: all servers have been out of order for too long.
        """
        now = time.monotonic()
        server.last_words = str(trouble)
        server.unreachable = trouble.cause is Cause.UNREACHABLE
        server.unwell_since = server.unwell_since or now
        server.troubles += 1
        # what was sent before the last slowing does not count again: sixteen refusals at once are one complaint
        if trouble.cause.slows and sent_at >= server.slowed_at:
            server.slowings += 1
            server.slowed_at = now
            server.limit = max(1.0, server.limit / 2)
            # a server that asks for no time at all, or for a time that is past, is busy all the same
            if not trouble.retry_after:
                self._pause(server, now + pause(server.slowings))
        if trouble.retry_after:
            self._pause(server, now + max(self._granted(server, trouble.retry_after), pause(0)))
        if trouble.cause is Cause.UNREACHABLE or (
            trouble.cause is not Cause.BUSY and server.troubles >= _TROUBLES_TO_GO_DOWN
        ):
            server.down = True
            if server.revival is None or server.revival.done():
                server.revival = asyncio.create_task(self._revive(server))
        self._give_up_if_lost()

    async def close(self) -> None:
        """Stops all probes; a probe that begins while this waits is left alone."""
        revivals = [server.revival for server in self.all if server.revival is not None]
        for server in self.all:
            # without a probe nothing would bring it back, so the next request finds out whether it works
            server.down, server.unwell_since, server.revival = False, None, None
        for revival in revivals:
            revival.cancel()
        await asyncio.gather(*revivals, return_exceptions=True)

    def _rooms(self) -> dict[Server, int]:
        """Returns how many samples more each server may be asked for now; those without room are left out."""
        now = time.monotonic()
        rooms = {server: int(server.limit) - server.in_flight for server in self.all if server.is_open(now)}
        return {server: room for server, room in rooms.items() if room > 0}

    def _home(self, key: str | None) -> Server | None:
        """Returns the server that has read a prompt; None if nothing is to be had there for a while."""
        position = None if key is None else self._homes.home(key)
        home = None if position is None else self.all[position]
        return home if home is not None and home.is_open(time.monotonic()) else None

    def _choice(self, key: str | None, rooms: Mapping[Server, int]) -> Server | None:
        """Returns the server that a request goes to, of those that have room; None if none has."""
        free = [server for server, room in rooms.items() if room > 0]
        if len(free) > 1 and key is not None:
            own = self._home(key) or self._first_choice(key)
            if own in free:
                return own
        return min(free, key=lambda server: (int(server.limit) - rooms[server]) / server.limit, default=None)

    def _first_choice(self, key: str) -> Server | None:
        now = time.monotonic()
        ordered = (self.all[position] for position in self._homes.order(key))
        return next((server for server in ordered if server.is_open(now)), None)

    def _give(self, server: Server, key: str | None, samples: int) -> None:
        server.in_flight += samples
        if key is not None and len(self.all) > 1:
            self._homes.settle(key, self.all.index(server))

    def _admit(self) -> None:
        """Gives the room that has become free to those who wait: best to one who is at home there, else in turn."""
        while self._waiting and (rooms := self._rooms()):
            best = self.best_next(((place.key, place.samples) for place in self._waiting), math.inf)
            place = self._waiting[best[0] if best else 0]
            server = self._choice(place.key, rooms)
            assert server is not None
            self._waiting.remove(place)
            self._give(server, place.key, place.samples)
            place.server.set_result(server)

    def _granted(self, server: Server, seconds: float) -> float:
        """Returns the pause that a server gets which asks for one: no longer than its silence would be borne."""
        if seconds > self.patience:
            self.notes.setdefault(
                server.url,
                f"{server.url} asked for a pause of {seconds:g} s; it is asked again after {self.patience:g} s, the"
                " longest pause that a server gets",
            )
        return min(seconds, self.patience)

    def _pause(self, server: Server, until: float) -> None:
        server.paused_until = max(server.paused_until, until)
        # a little late, so that the pause is over by the clock when it is looked at
        asyncio.get_running_loop().call_later(server.paused_until - time.monotonic() + 0.001, self._admit)

    async def _revive(self, server: Server) -> None:
        tries = 0
        while server.down:
            await asyncio.sleep(pause(tries, _LONGEST_PROBE_PAUSE))
            tries += 1
            if server.down and await self._probe(server):
                self.answered(server)
        self._admit()

    def _give_up_if_lost(self) -> None:
        now = time.monotonic()
        patience = self.patience
        if not self._answered and all(server.unreachable for server in self.all):
            patience = min(patience, _LONGEST_ABSENCE)
        for server in self.all:
            longer = 0.0 if server.down else self._timeout
            if server.unwell_since is None or now - server.unwell_since <= patience + longer:
                return
        raise self.lost(f"no server has answered for {patience:g} s")

    def lost(self, how: str) -> EngineLostError:
        """Returns the error for servers that no longer answer.

        Args:
            how: what shows that.
        """
        return EngineLostError(f"{how}: {self.said}; bring one back, or name another with --set {self._setting}=URL")
