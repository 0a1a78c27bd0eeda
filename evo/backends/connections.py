"""Keeps connections to servers open from one request to the next, as long as a server says only what it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp


def connections() -> aiohttp.BaseConnector:
    """Returns a pool of connections, from which one that holds something unasked is not taken again.

    A server that answers one request twice would otherwise answer the next one before it is sent.
    """
    import aiohttp

    class _Connections(aiohttp.TCPConnector):
        async def _get(self, *asked: Any) -> Any:
            # aiohttp looks for such a rest when a connection comes back, and not when it is taken again
            while (found := await super()._get(*asked)) is not None:
                if found.protocol is None or not found.protocol.should_close:
                    return found
                found.close()
            return None

    # uvicorn closes a connection that is idle for 5 s: a request sent at that moment would be lost;
    # no limit on connections, since `Servers` already limits the requests in flight
    return _Connections(limit=0, keepalive_timeout=4.0)
