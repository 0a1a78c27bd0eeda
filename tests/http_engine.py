"""A real HTTP server, in a thread of its own, that speaks the OpenAI protocol as well or as badly as a test wants."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

from aiohttp import web

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.evo.backends.null import Null
from fittest.evo.backends.openai import OpenAI
from fittest.evo.feeder import Feeder
from fittest.evo.records import Completion, Failure, Message, Request, Sampling
from fittest.runs.output.journal import SqliteJournal

NULL = Null()


@dataclass
class Asked:
    """One request as it arrived. `number` counts all of them, `again` those with the same body before it."""

    body: dict[str, Any]
    path: str
    headers: dict[str, str]
    number: int
    again: int
    at: float
    request: web.Request


Answer = Callable[[Asked], Awaitable[web.StreamResponse]]


def reply(asked: Asked, text: str | None, *, tokens: tuple[int, int] = (3, 5), **choice: Any) -> web.Response:
    """A well-formed reply."""
    content = {"text": text} if asked.path.endswith("/v1/completions") else {"message": {"content": text}}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return web.json_response({"choices": [{"finish_reason": "stop", **content, **choice}], "usage": usage})


def error(status: int, message: str = "", **headers: str) -> web.Response:
    """An error in OpenAI's form."""
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


async def well(asked: Asked) -> web.StreamResponse:
    """Answer as the null engine does."""
    body = asked.body
    chat = tuple(Message(**message) for message in body.get("messages", ()))
    stage = "rollout" if chat else "proposal"
    request = Request(stage, Sampling(max_tokens=body["max_tokens"]), body["seed"], 0, chat, body.get("prompt"))  # type: ignore[arg-type]
    completion = await NULL.sample(request)
    tokens = (completion.prompt_tokens, completion.completion_tokens)
    return reply(asked, completion.text, finish_reason=completion.finish_reason, tokens=tokens)


async def all_samples(asked: Asked) -> web.StreamResponse:
    """Give as many choices as were asked for, the prompt read once and half of it before."""
    choices = [{"finish_reason": "stop", "message": {"content": f"sample {i}"}} for i in range(asked.body["n"])]
    usage = {
        "prompt_tokens": 10, "completion_tokens": 7 * len(choices), "prompt_tokens_details": {"cached_tokens": 5}
    }  # fmt: skip
    return web.json_response({"choices": choices, "usage": usage})


async def scores_lengths(asked: Asked) -> web.StreamResponse:
    """Answer as vLLM's /classify does; the reward is the response's length less a half."""
    content = asked.body["messages"][-1]["content"]
    data = {"index": 0, "label": "LABEL_0", "probs": [len(content) - 0.5], "num_classes": 1}
    return web.json_response({"object": "list", "data": [data], "usage": {"prompt_tokens": 3}})


async def close(asked: Asked) -> web.StreamResponse:
    """Break the connection without a word."""
    assert asked.request.transport is not None
    asked.request.transport.abort()
    return web.Response()


async def half_a_body(asked: Asked) -> web.StreamResponse:
    """Promise more than is sent."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(asked.request)
    await response.write(b'{"choices": [{"mess')
    return await close(asked)


async def hang(asked: Asked) -> web.StreamResponse:
    """Take the request and never answer."""
    await asyncio.sleep(3600)
    return web.Response()


class _Listener(socket.socket):
    """A socket that remembers the connections that it has accepted."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.accepted: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        self.accepted.append(connection)
        return connection, address


class _Loop(asyncio.SelectorEventLoop):
    """A loop that remembers the transports of its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.transports: WeakSet[Any] = WeakSet()

    def _make_socket_transport(self, *given: Any, **more: Any) -> Any:
        transport = super()._make_socket_transport(*given, **more)  # type: ignore[misc]
        self.transports.add(transport)
        return transport


@dataclass
class HttpEngine:
    """The server; `answer` may be replaced at any time. Killed, it can be started again at the same address."""

    answer: Answer = well
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    given_up: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(10)

    def kill(self) -> None:
        """Break every connection and listen no longer."""
        self.begin_to_die()
        self._thread.join()

    def begin_to_die(self) -> None:
        """As `kill`, but the answer that is being given can call it."""
        with suppress(RuntimeError):  # its loop is closed: it is dead
            self._loop.call_soon_threadsafe(self._over.set)

    def _run(self, ready: threading.Event) -> None:
        with _Listener() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            with asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._serve(ready, listener))
            # a connection that was accepted in the loop's last moment was given to nobody, so nobody has closed it
            assert isinstance(self._loop, _Loop)
            for transport in self._loop.transports:
                transport._sock = None
            for connection in listener.accepted:
                connection.close()

    async def _serve(self, ready: threading.Event, listener: _Listener) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
        await runner.setup()
        site = web.SockSite(runner, listener)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._over.wait()
        assert runner.server is not None
        await site.stop()
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        again = sum(earlier.body == body for earlier in self.asked)
        at = asyncio.get_running_loop().time()
        asked = Asked(body, request.path, dict(request.headers), len(self.asked), again, at, request)
        self.asked.append(asked)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.answer(asked)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.running -= 1


def chat(text: str = "Hello.", seed: int = 7) -> Request:
    """A small rollout."""
    return Request("rollout", Sampling(max_tokens=40), seed, messages=(Message("user", text),))


def engine_of(*at: HttpEngine, **settings: Any) -> OpenAI:
    """The engine under test, on these servers."""
    return OpenAI(base_url=[server.url for server in at], model="m", **{"patience": 5.0, "timeout": 5.0} | settings)


def answers(engine: OpenAI, *requests: Request, together: int = 1) -> list[Completion | Failure]:
    """Through the feeder and the journal, as in a run."""

    async def body() -> list[Completion | Failure]:
        async with asyncio.timeout(30), Feeder(engine, SqliteJournal(":memory:"), together=together) as feeder:
            return await feeder.ask_all(requests)

    return asyncio.run(body())


def sampled(engine: OpenAI, request: Request) -> Completion:
    """Straight from the engine, with its own errors."""

    async def body() -> Completion:
        async with asyncio.timeout(30), engine:
            return await engine.sample(request)

    return asyncio.run(body())


def first(times: int, behaviour: Answer) -> Answer:
    """Misbehave the first times that each request is asked."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.again < times else well)(asked)

    return answer


def once_well(behaviour: Answer) -> Answer:
    """Answer the very first request, so that the server is known to answer, and misbehave from then on."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return await (behaviour if asked.number else well)(asked)

    return answer


def says(response: dict[str, Any] | str, status: int = 200) -> Answer:
    """Answer with just this body."""

    async def answer(asked: Asked) -> web.StreamResponse:
        text = response if isinstance(response, str) else json.dumps(response)
        return web.Response(text=text, status=status, content_type="application/json")

    return answer


def refuses(status: int, message: str = "", **headers: str) -> Answer:
    """Answer with an error."""

    async def answer(asked: Asked) -> web.StreamResponse:
        return error(status, message, **headers)

    return answer


def chat_only(answer: Answer = well) -> Answer:
    """Answer chats alone, as most hosted models do."""

    async def only(asked: Asked) -> web.StreamResponse:
        return error(404, "Not Found") if asked.path.endswith("/v1/completions") else await answer(asked)

    return only


def needs_extra_body(answer: Answer = well, key: str = "chat_template_kwargs") -> Answer:
    """Refuse every request whose body does not hold this key."""

    async def strict(asked: Asked) -> web.StreamResponse:
        return await answer(asked) if key in asked.body else error(400, f"{key} is required")

    return strict


def thinks_in_text(answer: Answer = well, thought: str = "Let me think.") -> Answer:
    """Write the reasoning of each chat before its answer."""

    def think(message: dict[str, Any]) -> None:
        message["content"] = f"<think>\n{thought}\n</think>\n\n{message['content']}"

    return _in_each_message(answer, think)


def thinks_apart(answer: Answer = well, thought: str = "Let me think.", key: str = "reasoning_content") -> Answer:
    """Give the reasoning of each chat beside its answer."""

    def think(message: dict[str, Any]) -> None:
        message[key] = thought

    return _in_each_message(answer, think)


def _in_each_message(answer: Answer, change: Callable[[dict[str, Any]], None]) -> Answer:
    """Change the messages of the replies to chats; raw texts and errors are left alone."""

    async def changed(asked: Asked) -> web.StreamResponse:
        response = await answer(asked)
        if response.status != 200 or asked.path.endswith("/v1/completions"):
            return response
        assert isinstance(response, web.Response)
        content = json.loads(response.text or "")
        for choice in content["choices"]:
            change(choice["message"])
        return web.json_response(content)

    return changed


def through(embedded: LlamaCpp) -> Answer:
    """Forward each request to the real model that is loaded in this process; it must have been entered."""

    async def forward(asked: Asked) -> web.StreamResponse:
        # as in the embedded engine: llama-server has other defaults
        body = {"top_k": 0, "min_p": 0.0, **asked.body}
        server = embedded._server
        handle = (
            server.handle_completions if asked.path.endswith("/v1/completions") else server.handle_chat_completions
        )
        replies: list[dict[str, Any]] = []
        # the model behind the server cannot be reached over the network, so it is called
        await asyncio.to_thread(handle, body, replies.append)
        code = replies[0].get("error", {}).get("code", 200)
        return web.json_response(replies[0], status=code)

    return forward


@contextmanager
def loaded(model: Path, *, slots: int = 4, context: int = 1024) -> Iterator[LlamaCpp]:
    """The real model, for `through`."""
    # a second thread gains a model of this size little, and on a busy machine waits at every layer
    embedded = LlamaCpp(model=model, slots=slots, context=context, threads=1)
    asyncio.run(embedded.__aenter__())
    try:
        yield embedded
    finally:
        asyncio.run(embedded.__aexit__())
