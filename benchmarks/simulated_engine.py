"""Serves the OpenAI protocol without a model and records how busy it is, which measures all clients in the same way.

    python benchmarks/simulated_engine.py null
    python benchmarks/simulated_engine.py slots --scale 0.25

`null` answers at once, with the same 64 tokens every time, so that only the client costs time. `slots` works on 16
requests at a time, in the order of their arrival, and takes log-normal times (median 0.4 s, sigma 0.6) that depend on
the prompt and on how often it was asked before, so that every client meets the same times in any order of asking; a
judgment takes 0.1 s, and a proposal (any raw completion) a quarter of an answer. An answer names its worth, which a
judgment of it repeats as the score.

The program prints its address. GET /measured returns idle fraction and tokens per second since POST /forget, or the
start.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import click
from aiohttp import web

from fittest.evo.backends.null import WORDS
from fittest.evo.records import Stage
from fittest.runs.output.accounting import idle_fraction

SLOTS = 16
MEDIAN_SECONDS = 0.4
PROPOSAL_SECONDS = 0.1
SIGMA = 0.6
JUDGE_SECONDS = 0.1
ANSWER_TOKENS = 64
SCORE_TOKENS = 3
JUDGE_OPENING = "A person sent an assistant this request:"
"""The beginning of the wording in `fittest.fitness.rewards.judge`, by which requests to judge are recognised."""

WORTH = re.compile(r"of worth (\d+):")


@dataclass(frozen=True)
class Measured:
    """Holds what the engine saw from the first arrival to the last completion.

    `began` is the first arrival by the monotonic clock, which all processes of a machine share.
    """

    answers: int
    judgments: int
    proposals: int
    completion_tokens: int
    began: float
    seconds: float
    idle: float

    @property
    def tokens_per_second(self) -> float:
        """Returns completion tokens per second, including judgments and proposals."""
        return self.completion_tokens / self.seconds


class Asked(NamedTuple):
    """Holds the text of a request, and what kind of request the engine takes it for."""

    text: str
    stage: Stage


def chat(content: str) -> Asked:
    """Returns what a chat asks."""
    return Asked(content, "judge" if content.startswith(JUDGE_OPENING) else "rollout")


class Served(NamedTuple):
    """Holds one request: when it came, when its reply was ready, and what it was."""

    arrived: float
    done: float
    stage: Stage
    tokens: int


def summed_up(served: Sequence[Served], slots: int = SLOTS) -> Measured:
    """Sum up the requests."""
    changes = sorted([(0, one.arrived, 1) for one in served] + [(0, one.done, -1) for one in served])
    stages = Counter(one.stage for one in served)
    return Measured(
        answers=stages["rollout"],
        judgments=stages["judge"],
        proposals=stages["proposal"],
        completion_tokens=sum(one.tokens for one in served),
        began=changes[0][1] if changes else 0.0,
        seconds=changes[-1][1] - changes[0][1] if changes else 0.0,
        idle=idle_fraction(changes, slots) or 0.0,
    )


class Null:
    """Answers at once."""

    text = " ".join(["word"] * (ANSWER_TOKENS - 1)) + "."

    async def answer(self, asked: Asked) -> tuple[str, int]:
        """Returns the same text for every request, and its tokens."""
        return self.text, ANSWER_TOKENS


class Slots:
    """Works on `SLOTS` requests at a time; all times are multiplied by `scale`."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._slots = asyncio.Semaphore(SLOTS)
        self._seen: Counter[str] = Counter()

    async def answer(self, asked: Asked) -> tuple[str, int]:
        """Returns a reply and its tokens, which depend on the text and on how often it was asked."""
        if asked.stage == "judge":
            await self._work(JUDGE_SECONDS)
            found = WORTH.search(asked.text)
            return f"Score: {found[1] if found else 0}", SCORE_TOKENS
        asked_for = hashlib.sha256(asked.text.encode()).hexdigest()[:16]
        number = self._seen[asked_for]
        rng = random.Random(f"{asked_for}:{number}")
        self._seen[asked_for] += 1
        median = PROPOSAL_SECONDS if asked.stage == "proposal" else MEDIAN_SECONDS
        await self._work(median * math.exp(rng.gauss(0.0, SIGMA)))
        if asked.stage == "proposal":
            words = rng.choices(WORDS, k=rng.randint(8, 24))
            return f"{' '.join(words).capitalize()}.", len(words)
        usual_worth = random.Random(asked_for).gauss(7.0, 1.5)
        worth = min(max(round(rng.gauss(usual_worth, 1.0)), 0), 10)
        opening = f"Answer {number + 1} to {asked_for}, of worth {worth}:"
        return f"{opening} {Null.text}", ANSWER_TOKENS

    async def _work(self, seconds: float) -> None:
        async with self._slots:
            await asyncio.sleep(seconds * self._scale)


class Server:
    """Serves an engine by the OpenAI protocol, and keeps the records."""

    def __init__(self, new_engine: Callable[[], Null | Slots]) -> None:
        self._new_engine = new_engine
        self._engine = new_engine()
        self._served: list[Served] = []

    async def chat(self, request: web.Request) -> web.Response:
        """Handle POST /v1/chat/completions."""
        arrived = time.monotonic()
        body = json.loads(await request.read())
        content = body["messages"][-1]["content"]
        asked = chat(content)
        return await self._reply(
            arrived, asked, body, lambda text: {"message": {"role": "assistant", "content": text}}
        )

    async def complete(self, request: web.Request) -> web.Response:
        """Handle POST /v1/completions."""
        arrived = time.monotonic()
        body = json.loads(await request.read())
        return await self._reply(arrived, Asked(body["prompt"], "proposal"), body, lambda text: {"text": text})

    async def _reply(
        self, arrived: float, asked: Asked, body: dict[str, Any], put: Callable[[str], dict[str, Any]]
    ) -> web.Response:
        text, tokens = await self._engine.answer(asked)
        reply = {
            "id": "simulated",
            "object": "simulated",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", **put(text)}],
            "usage": {"prompt_tokens": 16, "completion_tokens": tokens, "total_tokens": 16 + tokens},
        }
        response = web.json_response(reply)
        self._served.append(Served(arrived, time.monotonic(), asked.stage, tokens))
        return response

    async def forget(self, request: web.Request) -> web.Response:
        """Handle POST /forget: start again as if no prompt had been seen."""
        self._engine, self._served = self._new_engine(), []
        return web.Response()

    async def measured(self, request: web.Request) -> web.Response:
        """Handle GET /measured, with JSON."""
        return web.json_response(asdict(summed_up(self._served)))


@dataclass(frozen=True)
class SimulatedEngine:
    """Talks to the running program from a benchmark."""

    address: str

    @property
    def url(self) -> str:
        """Returns the address for clients of the OpenAI protocol."""
        return f"{self.address}/v1"

    def forget(self) -> None:
        """Start a new measurement."""
        urllib.request.urlopen(f"{self.address}/forget", data=b"").close()

    def measured(self) -> Measured:
        """Returns what was measured since then."""
        with urllib.request.urlopen(f"{self.address}/measured") as reply:
            return Measured(**json.load(reply))


@contextmanager
def simulated_engine(mode: str, *, scale: float = 1.0) -> Iterator[SimulatedEngine]:
    """Runs this program beside a benchmark, so that its CPU time is not the client's."""
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
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/completions", server.complete)
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
    """Serve the engine that the command line names."""
    asyncio.run(serve(Null if mode == "null" else partial(Slots, scale), port))


if __name__ == "__main__":
    main()
