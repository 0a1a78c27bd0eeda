"""A server that lies: it speaks HTTP and JSON as badly as a name in LIES says, on a share of the requests or on all.

It is made of sockets alone, since no library for servers can lie as badly as some servers do.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Self

from fittest.evo.backends.null import Null
from fittest.evo.records import Completion, Message, Request, Sampling

_MIB = 2**20
# trials before a run ask for 16 tokens, and probes for one
_FEWEST_TOKENS = 17
_NULL = Null()
_CHUNK = b"10000\r\n" + b" " * 2**16 + b"\r\n"


@dataclass
class Talk:
    """One request, and the connection that it came on."""

    body: dict[str, Any]
    writer: asyncio.StreamWriter
    reply: dict[str, Any]

    @property
    def honest(self) -> bytes:
        return json.dumps(self.reply).encode()

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def send_for_ever(self, part: bytes) -> None:
        while True:
            await self.send(part)

    async def answer(self, body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> None:
        """Answer in correct HTTP, but perhaps for the length."""
        await self.send(_head(status, f"Content-Length: {len(body) if length is None else length}", *headers), body)

    async def say(self, reply: object) -> None:
        """Answer with this as JSON."""
        await self.answer(json.dumps(reply).encode())

    def reset(self) -> None:
        """Break the connection with an RST in place of a FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _head(status: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


Tell = Callable[[Talk], Awaitable[None]]


@dataclass(frozen=True)
class Lie:
    """One way to lie.

    Attributes:
        tell: says it.
        to: "some": to a share of the requests, once to each; "all": to every request of the run after its trials.
        error: words of the error that the run must end with; None: its tables are those of an honest server.
        no_usage: whether the honest server to compare with counts no tokens.
        together: whether all samples of a prompt are asked for in one request.
        patience: how long the client waits for an answer of any server, in seconds.
        most: how often it is told to some; more would only make the client wait longer.
        reward: whether it is a reward service that lies.
    """

    tell: Tell
    to: Literal["some", "all"] = "some"
    error: str | None = None
    no_usage: bool = False
    together: bool = False
    patience: float = 10.0
    most: int = 5
    reward: Literal["http", "classify"] | None = None


LIES: dict[str, Lie] = {}


def lie(name: str, **how: Any) -> Callable[[Tell], Tell]:
    def registered(tell: Tell) -> Tell:
        assert name not in LIES
        LIES[name] = Lie(tell, **how)
        return tell

    return registered


# statuses, and what a server asks for with them
for _name, _status, _header in (
    ("busy-zero", "429 Too Many Requests", "Retry-After: 0"),
    ("busy-negative", "429 Too Many Requests", "Retry-After: -30"),
    ("busy-past", "503 Service Unavailable", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    ("busy-for-ever", "429 Too Many Requests", "Retry-After: 1e9"),
    ("busy-till-9999", "503 Service Unavailable", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
    ("busy-nonsense", "529 Overloaded", "Retry-After: nan"),
    ("busy-huge", "429 Too Many Requests", "Retry-After: " + "9" * 400),
    ("fault", "500 Internal Server Error", "X-Lie: 1"),
    ("fault-no-reason", "502", "X-Lie: 1"),
    ("no-content", "204 No Content", "X-Lie: 1"),
    ("partial-content", "206 Partial Content", "Content-Range: bytes 0-1/100"),
    ("status-999", "999 Strange", "X-Lie: 1"),
):
    # a long pause is cut to the patience
    @lie(_name, **({"patience": 2.0, "most": 1} if _name in ("busy-for-ever", "busy-till-9999") else {}))
    async def _status_lie(talk: Talk, status: str = _status, header: str = _header) -> None:
        await talk.answer(b"" if status.startswith("204") else b'{"error": {"message": "busy"}}', status, header)


@lie("redirect-loop", to="all", error="redirects to")
async def _redirects(talk: Talk) -> None:
    await talk.answer(b"", "307 Temporary Redirect", "Location: /v1/chat/completions")


@lie("error-of-megabytes")
async def _long_error(talk: Talk) -> None:
    await talk.answer(json.dumps({"error": {"message": "word " * _MIB}}).encode(), "500 Oh no")


@lie("error-without-end")
async def _endless_error(talk: Talk) -> None:
    await talk.send(_head("500 Oh no", "Transfer-Encoding: chunked"))
    await talk.send_for_ever(_CHUNK)


@lie("error-for-the-terminal", to="all", error="prompts in a row were refused")
async def _terminal(talk: Talk) -> None:
    words = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202egnp.exe\x9b31m"
    await talk.answer(json.dumps({"error": {"message": words}}).encode(), "400 \x1b[2JBad")


@lie("error-nested", to="all", error="prompts in a row were refused")
async def _nested_error(talk: Talk) -> None:
    await talk.answer(b'{"error": ' + b'{"error": ' * 900 + b"1" + b"}" * 901, "400 Bad Request")


@lie("error-in-200")
async def _error_in_200(talk: Talk) -> None:
    await talk.say({"error": {"message": "not today"}})


@lie("error-in-200-that-is-a-number")
async def _number_in_200(talk: Talk) -> None:
    await talk.say({"error": 10**300})


@lie("login-page")
async def _login(talk: Talk) -> None:
    await talk.answer(b"<html><form>Password</form></html>", "200 OK", "Set-Cookie: a=b; Max-Age=99999999")


@lie("upgrade")
async def _upgrade(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nrubbish")
    await asyncio.sleep(3600)


@lie("continue-once")
async def _continue(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await talk.answer(talk.honest)


@lie("continue-for-ever")
async def _continue_for_ever(talk: Talk) -> None:
    await talk.send_for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@lie("hints-for-ever")
async def _hints_for_ever(talk: Talk) -> None:
    while True:
        await talk.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
        await asyncio.sleep(0.01)


# bodies
@lie("endless-body")
async def _endless(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"), b'C\r\n{"choices": \r\n')
    await talk.send_for_ever(_CHUNK)


@lie("endless-body-until-closed")
async def _endless_until_closed(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Connection: close"))
    await talk.send_for_ever(b"[" * 2**16)


@lie("endless-body-of-a-length")
async def _long(talk: Talk) -> None:
    await talk.send(_head("200 OK", f"Content-Length: {2**50}"))
    await talk.send_for_ever(b"[" * 2**16)


@lie("endless-body-to-all", to="all", error="no server has answered", patience=1.0)
async def _endless_to_all(talk: Talk) -> None:
    await _endless(talk)


@cache
def _bomb(window: int) -> bytes:
    """Ten gibibytes of spaces, packed; after a full flush the same piece can be sent again and again."""
    packing = zlib.compressobj(9, wbits=window)
    begun = packing.compress(b'{"choices": [') + packing.flush(zlib.Z_FULL_FLUSH)
    piece = packing.compress(b" " * (16 * _MIB)) + packing.flush(zlib.Z_FULL_FLUSH)
    return begun + 640 * piece


for _name, _encoding, _window in (
    ("gzip-bomb", "gzip", 31),
    ("gzip-bomb-in-capitals", "GZIP", 31),
    ("deflate-bomb", "deflate", 15),
    ("bare-deflate-bomb", "deflate", -15),
):

    @lie(_name)
    async def _bomb_lie(talk: Talk, encoding: str = _encoding, window: int = _window) -> None:
        await talk.answer(_bomb(window), "200 OK", f"Content-Encoding: {encoding}")


@lie("gzip-bomb-to-all", to="all", error="no server has answered", patience=1.0)
async def _gzip_to_all(talk: Talk) -> None:
    await talk.answer(_bomb(31), "200 OK", "Content-Encoding: gzip")


@lie("gzip-bomb-in-an-error")
async def _gzip_error(talk: Talk) -> None:
    await talk.answer(_bomb(31), "500 Oh no", "Content-Encoding: gzip")


@lie("deflate-of-deflate")
async def _twice(talk: Talk) -> None:
    await talk.answer(zlib.compress(_bomb(15)), "200 OK", "Content-Encoding: deflate, deflate")


@lie("brotli")
async def _brotli(talk: Talk) -> None:
    await talk.answer(b"\x5b\xff\xff\xff" * 1000, "200 OK", "Content-Encoding: br")


@lie("zstd")
async def _zstd(talk: Talk) -> None:
    await talk.answer(b"\x28\xb5\x2f\xfd" * 1000, "200 OK", "Content-Encoding: zstd")


@lie("packed-though-not-asked")
async def _packed(talk: Talk) -> None:
    await talk.answer(gzip.compress(talk.honest), "200 OK", "Content-Encoding: gzip")


@lie("packed-bare-deflate")
async def _bare(talk: Talk) -> None:
    packing = zlib.compressobj(wbits=-15)
    await talk.answer(packing.compress(talk.honest) + packing.flush(), "200 OK", "Content-Encoding: deflate")


@lie("gzip-that-is-none")
async def _no_gzip(talk: Talk) -> None:
    await talk.answer(talk.honest, "200 OK", "Content-Encoding: gzip")


@lie("half-a-gzip")
async def _half_gzip(talk: Talk) -> None:
    packed = gzip.compress(talk.honest)
    await talk.answer(packed[: len(packed) // 2], "200 OK", "Content-Encoding: gzip")


@lie("longer-than-sent")
async def _longer(talk: Talk) -> None:
    await talk.answer(talk.honest, length=len(talk.honest) + 100)


@lie("shorter-than-sent")
async def _shorter(talk: Talk) -> None:
    await talk.answer(talk.honest, length=len(talk.honest) // 2)


@lie("two-lengths")
async def _two_lengths(talk: Talk) -> None:
    await talk.answer(talk.honest, "200 OK", "Content-Length: 3")


@lie("negative-length")
async def _negative(talk: Talk) -> None:
    await talk.answer(talk.honest, length=-1)


@lie("length-and-chunks")
async def _both(talk: Talk) -> None:
    body = f"{len(talk.honest):x}\r\n".encode() + talk.honest + b"\r\n0\r\n\r\n"
    await talk.answer(body, "200 OK", "Transfer-Encoding: chunked", length=5)


@lie("chunks-of-rubbish")
async def _chunked_rubbish(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"), b"zz\r\nrubbish\r\n0\r\n\r\n")


@lie("chunk-without-end")
async def _huge_chunk(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"), b"fffffffffffffff\r\n", talk.honest)
    await asyncio.sleep(3600)


@lie("chunk-extensions")
async def _extensions(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"), b"1;")
    await talk.send_for_ever(b"a=b;" * 2**14)


@lie("trailers-for-ever")
async def _trailers(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"), f"{len(talk.honest):x}\r\n".encode(), talk.honest)
    await talk.send(b"\r\n0\r\n")
    await talk.send_for_ever(b"X-Trailer: 1\r\n" * 1000)


# connections
@lie("closes-at-once")
async def _closes(talk: Talk) -> None:
    talk.writer.close()


@lie("closes-after-headers")
async def _closes_after_headers(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Content-Length: 100"))


@lie("hangs")
async def _hangs(talk: Talk) -> None:
    await asyncio.sleep(3600)


@lie("hangs-after-headers")
async def _hangs_after_headers(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Content-Length: 100"))
    await asyncio.sleep(3600)


@lie("hangs-on-all", to="all", error="no server has answered", patience=1.0)
async def _hangs_on_all(talk: Talk) -> None:
    await asyncio.sleep(3600)


@lie("trickle")
async def _trickle(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Transfer-Encoding: chunked"))
    while True:
        await talk.send(b"1\r\n \r\n")
        await asyncio.sleep(0.02)


@lie("drips-headers")
async def _drips(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await talk.send(f"X-{number}: 1\r\n".encode())
        await asyncio.sleep(0.02)


@lie("headers-without-end")
async def _headers(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        await talk.send(f"X-{number}: ".encode() + b"a" * 4000 + b"\r\n")


@lie("a-header-without-end")
async def _header(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    await talk.send_for_ever(b"a" * 2**16)


@lie("a-status-without-end")
async def _status_line(talk: Talk) -> None:
    await talk.send(b"HTTP/1.1 200 ")
    await talk.send_for_ever(b"a" * 2**16)


@lie("http-0.9")
async def _old(talk: Talk) -> None:
    await talk.send(talk.honest)


@lie("rubbish")
async def _rubbish(talk: Talk) -> None:
    await talk.send(bytes(range(256)) * 64)


@lie("tls-on-a-plain-port")
async def _tls(talk: Talk) -> None:
    await talk.send(b"\x15\x03\x01\x00\x02\x02\x28")


@lie("resets")
async def _resets(talk: Talk) -> None:
    talk.reset()


@lie("resets-after-headers")
async def _resets_after_headers(talk: Talk) -> None:
    await talk.send(_head("200 OK", "Content-Length: 100"))
    talk.reset()


@lie("resets-in-the-body")
async def _resets_in_body(talk: Talk) -> None:
    await talk.send(_head("200 OK", f"Content-Length: {len(talk.honest)}"), talk.honest[:-3])
    talk.reset()


@lie("says-keep-alive-and-closes")
async def _keep_alive(talk: Talk) -> None:
    await talk.answer(talk.honest, "200 OK", "Connection: keep-alive", "Keep-Alive: timeout=9999")


@lie("two-replies-to-one-request")
async def _two_replies(talk: Talk) -> None:
    second = b'{"choices": [{"message": {"content": "evil"}, "text": "evil", "finish_reason": "stop"}]}'
    # at once: a second reply that comes after the next request was sent is, in HTTP, the reply to that one
    replies = (talk.honest, second)
    await talk.send(*(_head("200 OK", f"Content-Length: {len(reply)}") + reply for reply in replies))
    await asyncio.sleep(0.3)


@lie("cookies")
async def _cookies(talk: Talk) -> None:
    bad = ["Set-Cookie: \x01=\x02", "Set-Cookie: a b=c; Domain=.com", *(f"Set-Cookie: c{i}=1" for i in range(50))]
    await talk.answer(talk.honest, "200 OK", *bad)


@lie("slow")
async def _slow(talk: Talk) -> None:
    await asyncio.sleep(0.1)
    await talk.answer(talk.honest)


# JSON
for _name, _body in (
    ("not-json", b"no"),
    ("half-json", b'{"choices": ['),
    ("empty-body", b""),
    ("deep-json", b"[" * 2**20),
    ("deep-tables", b'{"a":' * 2**18 + b"1" + b"}" * 2**18),
    ("deep-choices", b'{"choices": [{"finish_reason": ' + b"[" * 900 + b"]" * 900 + b"}]"),
    ("number-of-5000-digits", b'{"choices": ' + b"9" * 5000 + b"}"),
    ("many-long-numbers", b'{"choices": [' + (b"9" * 4000 + b",") * 2000 + b"1]}"),
    ("choices-of-null", b'{"choices": null}'),
    ("choices-of-texts", b'{"choices": ["a"]}'),
    ("no-choices", b'{"choices": []}'),
    ("a-list", b"[]"),
    ("nan", b'{"choices": NaN}'),
    ("not-utf-8", b'{"choices": [{"text": "\xff\xfe"}]}'),
    ("nul", b"\0" * 1000),
    ("raw-controls", b'{"choices": [{"text": "\x1b[2J\x00", "message": {"content": "\x1b[2J"}}]}'),
    ("a-million-choices", b'{"choices": [' + b"{}," * 10**6 + b"{}]}"),
    ("a-million-keys", b'{"choices": [{' + b",".join(b'"%d":1' % i for i in range(10**6)) + b"}]}"),
):

    @lie(_name)
    async def _json_lie(talk: Talk, body: bytes = _body) -> None:
        await talk.answer(body)


def _with(change: Callable[[dict[str, Any]], object], **choice: Any) -> Tell:
    """Answer honestly but for a change of the reply."""

    async def tell(talk: Talk) -> None:
        change(talk.reply)
        for one in talk.reply["choices"]:
            one.update(choice)
        await talk.answer(talk.honest)

    return tell


def _text_of(text: object) -> Tell:
    """Answer with this in place of the text."""
    return _with(lambda reply: None, text=text, message={"role": "assistant", "content": text})


LIES["byte-order-mark"] = Lie(lambda talk: talk.answer(b"\xef\xbb\xbf" + talk.honest))
LIES["utf-16"] = Lie(lambda talk: talk.answer(json.dumps(talk.reply).encode("utf-16")))
LIES["text-of-ten-megabytes"] = Lie(_text_of("word " * 2 * _MIB))
LIES["text-of-a-megabyte"] = Lie(_text_of("\U0001f600" * (_MIB // 4)))
LIES["another-model"] = Lie(_with(lambda reply: reply.update(model="other", id="\x1b[2J", object=[])))
_REFUSED = "20 prompts in a row were refused"
LIES["text-of-null"] = Lie(_text_of(None), to="all", error=_REFUSED)
LIES["text-of-a-number"] = Lie(_text_of(17), to="all", error=_REFUSED)
LIES["text-of-a-table"] = Lie(_text_of({"text": "x"}), to="all", error=_REFUSED)
LIES["content-filter"] = Lie(_with(lambda reply: None, finish_reason="content_filter"), to="all", error=_REFUSED)
LIES["reason-of-megabytes"] = Lie(_with(lambda reply: None, finish_reason="x" * _MIB), to="all", error=_REFUSED)
LIES["reason-nested"] = Lie(
    lambda talk: talk.answer(b'{"choices": [{"finish_reason": ' + b"[" * 900 + b"]" * 900 + b"}]}"),
    to="all",
    error=_REFUSED,
)
LIES["fault-to-all"] = Lie(
    lambda talk: talk.answer(b"", "500 Internal Server Error"), to="all", error="no server has answered", patience=1.0
)
LIES["busy-to-all"] = Lie(
    lambda talk: talk.answer(b"", "429 Too Many Requests", "Retry-After: 0"),
    to="all",
    error="no server has answered",
    patience=1.0,
)
for _name, _count in (
    ("2-to-62", 2**62), ("10-to-30", 10**30), ("negative", -5), ("float", 1.5), ("text", "7"), ("true", True),
    ("infinite", float("inf")), ("list", [1]), ("null", None),
):  # fmt: skip
    _usage = {
        "prompt_tokens": _count,
        "completion_tokens": _count,
        "prompt_tokens_details": {"cached_tokens": _count},
        "completion_tokens_details": {"reasoning_tokens": _count},
    }
    LIES[f"usage-{_name}"] = Lie(
        _with(lambda reply, usage=_usage: reply.update(usage=usage)),  # type: ignore[misc]
        to="all",
        no_usage=True,
    )
LIES["usage-that-is-a-text"] = Lie(_with(lambda reply: reply.update(usage="7")), to="all", no_usage=True)


def _more(reply: dict[str, Any]) -> None:
    reply["choices"] += [{**reply["choices"][0], "index": 7}, {**reply["choices"][0], "index": 8}]


def _numbered(reply: dict[str, Any]) -> None:
    for number, choice in enumerate(reply["choices"]):
        choice["index"] = number


def _out_of_order(reply: dict[str, Any]) -> None:
    _numbered(reply)
    reply["choices"].reverse()


def _repeated(reply: dict[str, Any]) -> None:
    _numbered(reply)
    reply["choices"] = [choice for choice in reply["choices"] for _ in range(3)]


LIES["more-choices"] = Lie(_with(_more), to="all", together=True)
LIES["choices-out-of-order"] = Lie(_with(_out_of_order), to="all", together=True)
LIES["choices-repeated"] = Lie(_with(_repeated), to="all", together=True)

# rewards
for _name, _kind in (("reward", "http"), ("classify", "classify")):
    LIES[f"{_name}-endless"] = Lie(_endless, reward=_kind)  # type: ignore[arg-type]
    LIES[f"{_name}-gzip-bomb"] = Lie(_gzip_to_all, reward=_kind)  # type: ignore[arg-type]
    LIES[f"{_name}-deep"] = Lie(lambda talk: talk.answer(b"[" * 2**20), reward=_kind)  # type: ignore[arg-type]
    LIES[f"{_name}-hangs"] = Lie(_hangs, reward=_kind)  # type: ignore[arg-type]
    LIES[f"{_name}-headers"] = Lie(_headers, reward=_kind)  # type: ignore[arg-type]
    LIES[f"{_name}-busy"] = Lie(
        lambda talk: talk.answer(b"", "503 Busy", "Retry-After: -1"),
        reward=_kind,  # type: ignore[arg-type]
    )
LIES["reward-of-texts"] = Lie(
    lambda talk: talk.say({"rewards": ["5"] * len(talk.reply["rewards"])}), reward="http", error="gave the reward '5'"
)
LIES["reward-nested"] = Lie(
    lambda talk: talk.answer(b'{"rewards": [' + b"[" * 900 + b"]" * 900 + b"]}"), reward="http", error="gave"
)
LIES["reward-too-few"] = Lie(
    lambda talk: talk.say({"rewards": talk.reply["rewards"] + [1]}), reward="http", error="expected one each"
)


@dataclass
class LyingServer:
    """The server, in a thread of its own; the first part of a path names the lie, or "honest" or "no-usage".

    Attributes:
        told: how often each lie was told.
    """

    told: Counter[str] = field(default_factory=Counter)
    port: int = 0

    def __enter__(self) -> Self:
        self._asked: Counter[tuple[str, bytes]] = Counter()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._talks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            # a lie that is not over when the server is closed is told no further
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._talk(reader, writer):
                    pass
        finally:
            self._talks.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() > _MIB else writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; tells whether the connection may be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        name, path = head.split()[1].removeprefix("/").split("/", 1)
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
        content = await reader.readexactly(int(length.split(":")[1]))
        body = json.loads(content)
        talk = Talk(body, writer, await _honest(path, body, usage=name != "no-usage"))
        self._asked[name, content] += 1
        if not self._is_lied_to(name, path, content):
            await talk.answer(talk.honest)
            return True
        self.told[name] += 1
        await LIES[name].tell(talk)
        return False

    def _is_lied_to(self, name: str, path: str, content: bytes) -> bool:
        lie = LIES.get(name)
        engine = path.startswith("v1/")
        if lie is None or (lie.to == "some" and self.told[name] >= lie.most) or engine != (lie.reward is None):
            return False
        if json.loads(content).get("max_tokens", 99) < _FEWEST_TOKENS:
            return False
        # the trial of a reward is a pair like any other
        again = self._asked[name, content] > 1 or b"Say hello." in content
        return lie.to == "all" or (not again and (not engine or zlib.crc32(content) % 4 == 0))


async def _honest(path: str, body: dict[str, Any], *, usage: bool) -> dict[str, Any]:
    if path == "rewards":
        return {"rewards": [len(pair["response"]) % 97 for pair in body["pairs"]]}
    if path == "classify":
        return {"data": [{"probs": [len(body["messages"][-1]["content"]) % 97 + 0.5]}]}
    completions = [await _completion(body, number) for number in range(body.get("n", 1))]
    counts = {
        "prompt_tokens": completions[0].prompt_tokens,
        "completion_tokens": sum(one.completion_tokens for one in completions),
    }
    choices = [
        {"text": one.text, "message": {"content": one.text}, "finish_reason": one.finish_reason} for one in completions
    ]
    return {"choices": choices, **({"usage": counts} if usage else {})}


async def _completion(body: dict[str, Any], number: int) -> Completion:
    chat = tuple(Message(**message) for message in body.get("messages", ()))
    stage: Literal["rollout", "proposal"] = "rollout" if chat else "proposal"
    sampling = Sampling(max_tokens=body["max_tokens"])
    return await _NULL.sample(Request(stage, sampling, body["seed"] + number, 0, chat, body.get("prompt")))
