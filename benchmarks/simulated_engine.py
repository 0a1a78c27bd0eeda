"""An OpenAI-compatible server without a model, which notes how busy it is kept: the yardstick for all clients.

    python benchmarks/simulated_engine.py null
    python benchmarks/simulated_engine.py slots --scale 0.25

`null` answers at once, with the same 64 tokens every time: what is left is the client. `slots` works on 16 requests at
a time, in the order they came, and takes log-normal times (median 0.4 s, sigma 0.6) that depend on the prompt and on
how often it was asked before, so that every client meets the same ones in whatever order it asks; a judgment takes
0.1 s. An answer names its worth, which a judgment of it repeats as the score.

Prints its address. GET /measured tells idle fraction and tokens per second since POST /forget, or the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import click
from aiohttp import web

from runs.accounting import idle_fraction

SLOTS = 16
MEDIAN_SECONDS = 0.4
SIGMA = 0.6
JUDGE_SECONDS = 0.1
ANSWER_TOKENS = 64
SCORE_TOKENS = 3
JUDGE_OPENING = "A person sent an assistant this request:"
"""How the wording of `fitness.rewards.judge` begins; by it a request to judge is told from one to answer."""

WORTH = re.compile(r"of worth (\d+):")


@dataclass(frozen=True)
class Measured:
    """What the engine saw, from the first arrival to the last completion."""

    answers: int
    judgments: int
    completion_tokens: int
    seconds: float
    idle: float

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens, judgments included."""
        return self.completion_tokens / self.seconds


class Served(NamedTuple):
    """One request: when it came, when its reply was ready, and what it was."""

    arrived: float
    done: float
    judgment: bool
    tokens: int


class Null:
    """Answers at once."""

    text = " ".join(["word"] * (ANSWER_TOKENS - 1)) + "."

    async def answer(self, content: str) -> tuple[str, int]:
        """The same text for every request, and its tokens."""
        return self.text, ANSWER_TOKENS


class Slots:
    """Works on `SLOTS` requests at a time; `scale` stretches all times."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._slots = asyncio.Semaphore(SLOTS)
        self._seen: Counter[str] = Counter()

    async def answer(self, content: str) -> tuple[str, int]:
        """An answer that depends on the prompt and on how often it was asked, or the score of one; and its tokens."""
        if content.startswith(JUDGE_OPENING):
            await self._work(JUDGE_SECONDS)
            worth = WORTH.search(content)
            return f"Score: {worth[1] if worth else 0}", SCORE_TOKENS
        prompt = hashlib.sha256(content.encode()).hexdigest()[:16]
        rng = random.Random(f"{prompt}:{self._seen[prompt]}")
        self._seen[prompt] += 1
        await self._work(MEDIAN_SECONDS * math.exp(rng.gauss(0.0, SIGMA)))
        usual_worth = random.Random(prompt).gauss(7.0, 1.5)
        worth = min(max(round(rng.gauss(usual_worth, 1.0)), 0), 10)
        opening = f"Answer {self._seen[prompt]} to {prompt}, of worth {worth}:"
        return f"{opening} {Null.text}", ANSWER_TOKENS

    async def _work(self, seconds: float) -> None:
        async with self._slots:
            await asyncio.sleep(seconds * self._scale)


class Server:
    """The OpenAI protocol around an engine, and the notes."""

    def __init__(self, new_engine: Callable[[], Null | Slots]) -> None:
        self._new_engine = new_engine
        self._engine = new_engine()
        self._served: list[Served] = []

    async def complete(self, request: web.Request) -> web.Response:
        """POST /v1/chat/completions."""
        arrived = time.monotonic()
        body = json.loads(await request.read())
        content = body["messages"][-1]["content"]
        text, tokens = await self._engine.answer(content)
        reply = {
            "id": "simulated",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 16, "completion_tokens": tokens, "total_tokens": 16 + tokens},
        }
        response = web.json_response(reply)
        self._served.append(Served(arrived, time.monotonic(), content.startswith(JUDGE_OPENING), tokens))
        return response

    async def forget(self, request: web.Request) -> web.Response:
        """POST /forget: begin anew, with prompts never seen."""
        self._engine, self._served = self._new_engine(), []
        return web.Response()

    async def measured(self, request: web.Request) -> web.Response:
        """GET /measured, as JSON."""
        changes = sorted([(0, s.arrived, 1) for s in self._served] + [(0, s.done, -1) for s in self._served])
        judgments = sum(served.judgment for served in self._served)
        found = Measured(
            answers=len(self._served) - judgments,
            judgments=judgments,
            completion_tokens=sum(served.tokens for served in self._served),
            seconds=changes[-1][1] - changes[0][1] if changes else 0.0,
            idle=idle_fraction(changes, SLOTS) or 0.0,
        )
        return web.json_response(asdict(found))


@dataclass(frozen=True)
class SimulatedEngine:
    """The running program, seen from a benchmark."""

    address: str

    @property
    def url(self) -> str:
        """Where clients of the OpenAI protocol send requests."""
        return f"{self.address}/v1"

    def forget(self) -> None:
        """Begin a new measurement."""
        urllib.request.urlopen(f"{self.address}/forget", data=b"").close()

    def measured(self) -> Measured:
        """What happened since."""
        with urllib.request.urlopen(f"{self.address}/measured") as reply:
            return Measured(**json.load(reply))


@contextmanager
def simulated_engine(mode: str, *, scale: float = 1.0) -> Iterator[SimulatedEngine]:
    """Run this program beside a benchmark, so that its CPU time is not the client's."""
    command = [sys.executable, __file__, mode, "--scale", str(scale)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            yield SimulatedEngine(program.stdout.readline().strip())
        finally:
            program.terminate()


async def serve(new_engine: Callable[[], Null | Slots], port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = Server(new_engine)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_post("/forget", server.forget)
    app.router.add_get("/measured", server.measured)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    click.echo(f"http://127.0.0.1:{runner.addresses[0][1]}")
    sys.stdout.flush()
    told = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, told.set)
    await told.wait()
    await runner.cleanup()


@click.command()
@click.argument("mode", type=click.Choice(["null", "slots"]))
@click.option("--scale", default=1.0, show_default=True, help="Stretches all times of `slots`.")
@click.option("--port", default=0, help="0: any that is free.")
def main(mode: str, scale: float, port: int) -> None:
    """Serve."""
    asyncio.run(serve(Null if mode == "null" else partial(Slots, scale), port))


if __name__ == "__main__":
    main()
