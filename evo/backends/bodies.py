"""Reads the body of a reply without trusting its length: the limit counts what is sent, and what that unpacks to."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from fittest.evo.backends.servers import Cause, Trouble

if TYPE_CHECKING:
    import aiohttp

MIB = 2**20
# what a server says about an error is cut to one line; a server that repeats a long request says it within this
_MOST_OF_ERROR = MIB


async def body_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Returns the body of a reply, unpacked; of an error no more is read than its words need.

    aiohttp must not unpack it: a megabyte of zeros is a kilobyte on the wire.

    Args:
        response: the reply, of which nothing is read yet.
        most: the most bytes that it may have.

    Raises:
        Trouble: it has more, or is packed in a way that nobody asked for; another try may succeed.
    """
    answers = 200 <= response.status < 300
    if not answers:
        most = min(most, _MOST_OF_ERROR)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    plain = encoding in ("identity", "")
    if plain and (response.content_length or most) < most:
        return await response.read()
    unpacking = None if plain else _Unpacking(encoding)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk if unpacking is None else unpacking.of(chunk, most + 1 - len(body))
        if len(body) > most:
            # the rest is not read, so the connection cannot be used again
            response.close()
            if answers:
                raise Trouble(
                    Cause.BROKEN, f"the reply has more than {most // MIB} MiB, the most that max_reply_mib allows"
                )
            break
    return bytes(body[:most])


class _Unpacking:
    """Unpacks gzip and deflate piece by piece. Both are refused within each other: no server needs that.

    Args:
        encoding: the value of `Content-Encoding`.

    Raises:
        Trouble: it is neither.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise Trouble(Cause.BROKEN, f"the reply is packed as {encoding:.40}, though it was asked for as it is")
        self._encoding = encoding
        self._zlib: zlib._Decompress | None = None

    def of(self, chunk: bytes, most: int) -> bytes:
        """Returns what a chunk unpacks to, and no more than `most` bytes of it."""
        if self._zlib is None:
            # "deflate" means zlib's format by its standard, and the bare stream by the habit of some servers
            bare = self._encoding == "deflate" and chunk[:1] and chunk[0] & 15 != zlib.DEFLATED
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)
        try:
            # at `most` bytes reading ends, so what zlib has not read yet is never asked for
            return self._zlib.decompress(chunk, most)
        except zlib.error:
            raise Trouble(Cause.BROKEN, f"the reply is no {self._encoding}") from None
