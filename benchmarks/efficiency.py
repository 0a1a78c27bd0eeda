"""Compares the cost of fittest with that of raw clients: the same requests, at the same concurrency, in turn.

    python benchmarks/efficiency.py
    python benchmarks/efficiency.py --only null

The first engine answers at once (`simulated_engine.py null`), so that only the client's work is left: requests per
second and the client's CPU are measured through fittest (feeder, `openai` engine, journal on disk), over bare aiohttp,
and with the official `openai` client if it is installed. The second engine is the real server of llama.cpp, with
SmolLM2 in a process of its own: completion tokens per second and idle slots are measured. Each round asks every
client, each time in another order; medians are compared with the bounds. The official client, which takes ten times as
long, is asked an eighth of it. The program exits with status 1 when a bound is missed.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import aiohttp
import click
from listening import Listening
from simulated_engine import simulated_engine

from fittest.evo.backends.openai import OpenAI
from fittest.evo.backends.openai_dialect import Dialect
from fittest.evo.evolution import WORKERS_PER_SLOT
from fittest.evo.feeder import Feeder
from fittest.evo.records import Message, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.runs.output.accounting import idle_fraction
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.process import at_work

ROUNDS = 3
N = 4
MODEL = "smollm2-135m"

NULL_PROMPTS, NULL_TOKENS, NULL_SLOTS = 500, 64, 64
REQUESTS_PER_SECOND = 2000
CPU_MS = 0.5

LLAMA_PROMPTS, LLAMA_TOKENS, LLAMA_SLOTS, LLAMA_CONTEXT = 16, 16, 16, 256
SHARE_OF_RAW_SPEED = 0.92
IDLE = 0.03

SUBJECTS = ("a river", "a clock", "an old bridge", "bread", "the moon", "a school", "music", "a garden")
TASKS = ("Explain {} to a child.", "Write two lines about {}.", "What is {} good for?", "List facts about {}.")


@dataclass(frozen=True)
class Work:
    """Holds one client's round: what it received, its wall and CPU seconds, and the idle share of slot time."""

    requests: int
    tokens: int
    seconds: float
    cpu: float
    idle: float


Client = Callable[[str, Sequence[Sequence[Request]], int], Awaitable[tuple[int, float]]]
"""Asks a server for samples of prompts, a given number at once; returns completion tokens and idle fraction."""


def requests_for(prompts: int, max_tokens: int, seed: int) -> list[list[Request]]:
    """Returns N requests for each prompt; another seed asks for other samples."""
    tree, sampling = SeedTree(seed), Sampling(max_tokens=max_tokens)
    groups = []
    for number in range(prompts):
        task, subject = TASKS[number % len(TASKS)], SUBJECTS[number // len(TASKS) % len(SUBJECTS)]
        repeated = number // (len(TASKS) * len(SUBJECTS))
        messages = (Message("user", task.format(subject) + f" ({repeated})" * bool(repeated)),)
        seeds = tree.engine_seeds(Stream.ROLLOUT, number, count=N)
        groups.append([Request("rollout", sampling, one, sample, messages) for sample, one in enumerate(seeds)])
    return groups


async def fittest(url: str, groups: Sequence[Sequence[Request]], slots: int) -> tuple[int, float]:
    """Ask through feeder, engine and journal; prompts in work and garbage collector are as in a run."""
    with tempfile.TemporaryDirectory() as folder, at_work:
        journal = SqliteJournal(Path(folder) / "journal.sqlite")
        queue = iter(groups)
        async with Feeder(OpenAI(base_url=[url], model=MODEL, slots=slots), journal) as feeder:

            async def work() -> None:
                for group in queue:
                    await feeder.ask_all(group)

            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS_PER_SLOT * slots):
                    workers.create_task(work())
        idle = idle_fraction(journal.in_flight_changes(), slots)
        journal.close()
    return feeder.fresh.total.completion_tokens, idle or 0.0


async def bare_aiohttp(url: str, groups: Sequence[Sequence[Request]], slots: int) -> tuple[int, float]:
    """Ask with the least code that aiohttp allows."""
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask(request: Request) -> int:
            _, body = Dialect(MODEL).path_and_body(request)
            async with session.post(f"{url}/chat/completions", data=body) as response:
                return int(json.loads(await response.read())["usage"]["completion_tokens"])

        return await plainly(ask, groups, slots)


async def official(url: str, groups: Sequence[Sequence[Request]], slots: int) -> tuple[int, float]:
    """Ask with the official client."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(request: Request) -> int:
            reply = await client.chat.completions.create(
                model=MODEL,
                messages=[message._asdict() for message in request.messages],
                temperature=request.sampling.temperature,
                top_p=request.sampling.top_p,
                max_tokens=request.sampling.max_tokens,
                seed=request.seed,
            )
            return int(reply.usage.completion_tokens)

        return await plainly(ask, groups, slots)


async def plainly(
    ask: Callable[[Request], Awaitable[int]], groups: Sequence[Sequence[Request]], slots: int
) -> tuple[int, float]:
    """Send all requests at once behind a semaphore."""
    free = asyncio.Semaphore(slots)
    changes: list[tuple[int, float, int]] = []

    async def one(request: Request) -> int:
        async with free:
            changes.append((0, time.monotonic(), 1))
            tokens = await ask(request)
            changes.append((0, time.monotonic(), -1))
        return tokens

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(request)) for group in groups for request in group]
    return sum(task.result() for task in asked), idle_fraction(changes, slots) or 0.0


CLIENTS: Mapping[str, Client] = {"fittest": fittest, "aiohttp": bare_aiohttp, "openai": official}


def measure(client: Client, url: str, groups: Sequence[Sequence[Request]], slots: int) -> Work:
    """Measures one round of one client, from before it is made until it is closed."""
    began, cpu = time.monotonic(), time.process_time()
    tokens, idle = asyncio.run(client(url, groups, slots))
    spent = time.process_time() - cpu
    return Work(sum(map(len, groups)), tokens, time.monotonic() - began, spent, idle)


def rounds(
    names: Sequence[str], url: str, prompts: int, max_tokens: int, slots: int, said: Callable[[Work], str]
) -> dict[str, list[Work]]:
    """Measures all rounds of all clients, after one round that does not count."""
    found: dict[str, list[Work]] = {name: [] for name in names}
    for name in names:
        measure(CLIENTS[name], url, requests_for(prompts // 8, max_tokens, seed=0), slots)
    for number in range(ROUNDS):
        groups = requests_for(prompts, max_tokens, seed=number + 1)
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            part = groups[: prompts // 8] if name == "openai" else groups
            found[name].append(measure(CLIENTS[name], url, part, slots))
        click.echo(f"round {number + 1}: " + "; ".join(f"{name} {said(found[name][-1])}" for name in names))
    return found


def against_null(slots: int) -> bool:
    """Prints requests per second and CPU; returns whether every bound holds."""
    names = ["fittest", "aiohttp", *(["openai"] if find_spec("openai") else [])]
    if "openai" not in names:
        click.echo('the official client is not installed (pip install "fittest[bench]"): left out')
    with simulated_engine("null") as engine:
        found = rounds(names, engine.url, NULL_PROMPTS, NULL_TOKENS, slots, _rate_and_cpu)
    rates = {name: median(work.requests / work.seconds for work in found[name]) for name in names}
    cpu = {name: median(work.cpu / work.requests for work in found[name]) * 1e3 for name in names}
    for name in names:
        click.echo(f"median: {name} {rates[name]:.0f} requests/s, {cpu[name]:.3f} ms CPU per request")
    click.echo(
        f"fittest takes {cpu['fittest'] / cpu['aiohttp']:.2f} of the CPU of bare aiohttp; bounds: at least"
        f" {REQUESTS_PER_SECOND} requests/s, under {CPU_MS} ms, {slots} at once"
    )
    return rates["fittest"] >= REQUESTS_PER_SECOND and cpu["fittest"] < CPU_MS


def against_llama(model: Path) -> bool:
    """Prints tokens per second and idle slots; returns whether every bound holds."""
    with llama_server(model) as url:
        found = rounds(["fittest", "aiohttp"], url, LLAMA_PROMPTS, LLAMA_TOKENS, LLAMA_SLOTS, _speed_and_idle)
    speeds = {name: [work.tokens / work.seconds for work in works] for name, works in found.items()}
    share = median(ours / raw for ours, raw in zip(speeds["fittest"], speeds["aiohttp"], strict=True))
    idle = median(work.idle for work in found["fittest"])
    click.echo(
        f"medians: fittest {share:.3f} of the tokens/s of aiohttp (bound {SHARE_OF_RAW_SPEED}), idle {idle:.3f}"
        f" (bound {IDLE}), {LLAMA_SLOTS} slots"
    )
    return share >= SHARE_OF_RAW_SPEED and idle <= IDLE


def _rate_and_cpu(work: Work) -> str:
    return f"{work.requests / work.seconds:.0f} requests/s, {work.cpu / work.requests * 1e3:.3f} ms CPU"


def _speed_and_idle(work: Work) -> str:
    return f"{work.tokens / work.seconds:.1f} tokens/s, idle {work.idle:.3f}"


@contextmanager
def llama_server(model: Path) -> Iterator[str]:
    """Runs the server of llama.cpp in another process, and yields the address for requests."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    program = spawning.Process(target=serve_llama, args=(model, there), daemon=True)
    program.start()
    there.close()
    yield here.recv()
    here.close()
    program.join()


def serve_llama(model: Path, parent: Connection) -> None:
    """Serve until the parent closes the connection."""

    async def serve() -> None:
        async with Listening(model=model, slots=LLAMA_SLOTS, context=LLAMA_CONTEXT) as engine:
            parent.send(engine.url)
            await asyncio.to_thread(parent.poll, None)

    asyncio.run(serve())


@click.command()
@click.option("--only", type=click.Choice(["null", "llama"]), help="One engine alone.")
@click.option("--slots", default=NULL_SLOTS, show_default=True, help="Requests at once against the null engine.")
def main(only: str | None, slots: int) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    held = [True]
    if only != "llama":
        held.append(against_null(slots))
    if only != "null":
        from fittest.runs.models import find_model

        held.append(against_llama(Path(find_model(MODEL))))
    sys.exit(int(not all(held)))


if __name__ == "__main__":
    main()
