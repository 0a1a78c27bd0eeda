"""Tries out the servers of an endpoint before a run begins: each is sent one short request of each role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.openai_format import Refused
from fittest.evo.backends.servers import Cause, Server, Trouble, pause
from fittest.evo.errors import FittestError, RequestFailedError

# a user waits for the trials; a server that takes longer is only slow
_TRIAL_SECONDS = 10.0
_TRIES = 3

_Trial = tuple[str, str, bytes]
_Read = Callable[[Mapping[str, Any]], object]
_Outcome = Literal["answers", "late", "dead", "refuses"]


async def try_out(endpoint: Endpoint, wanted: str, read: _Read, trials: Sequence[_Trial] = ()) -> list[str]:
    """Sends each server one short request of each role, all at once, and returns what a user should know.

    Args:
        endpoint: the servers.
        wanted: the name of what a reply holds, for messages.
        read: reads a reply, as in `Endpoint.ask`.
        trials: the requests, each as its role, path and body; without any, the probe of the endpoint is sent.

    Returns:
        Servers that are busy or slow, and servers that are out of order while others work.

    Raises:
        FittestError: a server refuses what it will be asked, or no server works; the error names each and what it
            said.
    """
    asked = trials or [("", *endpoint.probe)]
    async with endpoint, asyncio.TaskGroup() as group:
        tasks = {
            server.url: [group.create_task(_tried(endpoint, server, trial, read)) for trial in asked]
            for server in endpoint.servers.all
        }
    found = {url: [task.result() for task in of_server] for url, of_server in tasks.items()}
    refusals = [words for outcomes in found.values() for kind, words in outcomes if kind == "refuses"]
    if refusals:
        raise FittestError("; ".join(dict.fromkeys(refusals)))
    told = [(url, *outcome) for url, outcomes in found.items() for outcome in dict.fromkeys(outcomes)]
    dead = [f"{url} gives no {wanted}: {words}" for url, kind, words in told if kind == "dead"]
    if dead and all(any(kind == "dead" for kind, _ in outcomes) for outcomes in found.values()):
        raise FittestError("; ".join(dead))
    return dead + [f"{url} {words}" for url, kind, words in told if kind == "late"]


async def _tried(endpoint: Endpoint, server: Server, trial: _Trial, read: _Read) -> tuple[_Outcome, str]:
    """Sends one trial to one server, and says how that ended, and in which words."""
    role, path, body = trial
    try:
        trouble = await _sent(endpoint, server, path, body, read)
    except RequestFailedError as error:
        if not (isinstance(error, Refused) and error.cut):
            verdict = endpoint.verdict(server, path, role, error)
            if isinstance(verdict, RequestFailedError):
                return "late", f"refuses an example of a request: {verdict}"
            return "refuses", str(verdict)
        trouble = None
    except FittestError as error:
        return "refuses", str(error)
    if trouble is None:
        endpoint.note_answer(server, role)
        return "answers", ""
    if trouble.cause is Cause.TIMEOUT:
        seconds = min(endpoint.timeout, _TRIAL_SECONDS)
        return "late", f"has accepted a request, and not answered within {seconds:g} s"
    return ("late", f"is busy: {trouble}") if trouble.cause is Cause.BUSY else ("dead", str(trouble))


async def _sent(endpoint: Endpoint, server: Server, path: str, body: bytes, read: _Read) -> Trouble | None:
    """Sends a request until it is answered, or another try would end alike; returns what is in the way."""
    trouble: Trouble | None = None
    try:
        async with asyncio.timeout(_TRIAL_SECONDS):
            for tries in range(_TRIES):
                if tries:
                    await asyncio.sleep(pause(tries, 1.0))
                try:
                    await endpoint.send_once(server, path, body, read, seconds=_TRIAL_SECONDS)
                except Trouble as error:
                    trouble = error
                    # a broken reply may be an accident; the others would say the same again
                    if error.cause not in (Cause.FAULT, Cause.BROKEN):
                        break
                else:
                    return None
    except TimeoutError:
        return trouble or Trouble(Cause.TIMEOUT, "no reply")
    return trouble
