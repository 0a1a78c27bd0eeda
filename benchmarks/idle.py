"""Measures how busy slots are during work in two steps: answers of very different length, and a judgment of each.

    python benchmarks/idle.py --virtual
    python benchmarks/idle.py --tries 3

Fittest (feeder, journal, judge and evaluator) asks `simulated_engine.py` (16 slots, heavy-tailed times), and so does a
plain client: a semaphore of 16, with each answer judged in the order of arrival. There are five blocks of 32 prompts,
four answers to each, for both clients in turn; then races with cuts that are known. The engine measures both in the
same way. The prompts are the first of `human_prompts.parquet` under 2,000 characters, from `../shared/data` or the
given folder; without that file they are texts of the null engine. The program exits with status 1 when a bound is
missed. If other programs take the processor from the client, slots are idle for longer; `--tries` then measures a miss
again. `--virtual` runs the same engine in the same process, on a clock that jumps: only the order of requests counts,
it takes seconds, and repeats exactly. CI runs this.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Self

import aiohttp
import click
import polars as pl
import virtual_time
from simulated_engine import (
    ANSWER_TOKENS,
    JUDGE_OPENING,
    SLOTS,
    Measured,
    Served,
    SimulatedEngine,
    Slots,
    chat,
    simulated_engine,
    summed_up,
)

from fittest.evo.backends.null import Null
from fittest.evo.backends.openai import OpenAI
from fittest.evo.evolution import WORKERS_PER_SLOT
from fittest.evo.feeder import Feeder
from fittest.evo.prompt import Prompt
from fittest.evo.protocols import Backend
from fittest.evo.records import RIP_METRICS, Birth, Completion, Range, Request, Sampling, Thresholds
from fittest.evo.seeds import SeedTree
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.racing import RaceTrack
from fittest.fitness.rewards.judge import JudgeReward
from fittest.operators.policies import Absolute
from fittest.runs.output.journal import SqliteJournal

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LONGEST_PROMPT = 2000
BLOCK, ANSWERS = 32, 4
RACED, RACED_ANSWERS, ROUND = 128, 8, 2
MORE_IDLE_THAN_PLAIN = 0.01
SHARE_OF_PLAIN_SPEED = 0.98
RACED_IDLE = 0.08
CUTS = Thresholds("absolute", {"m1": Range(low=6.0), "m3": Range(high=3.0)})
"""Cuts that about half of the prompts of the simulated engine fail."""

MODEL = "simulated"
SEEDS = SeedTree(1)


def some_prompts(data: Path, count: int) -> list[str]:
    """Returns prompts that people wrote, or pseudo-prompts if the file is missing."""
    table = data / "prompts" / "human_prompts.parquet"
    if table.is_file():
        found = pl.scan_parquet(table).filter(pl.col("prompt").str.len_chars() < LONGEST_PROMPT).head(count).collect()
        return found["prompt"].to_list()
    asked = [Request("rollout", Sampling(), seed, prompt="") for seed in range(count)]
    return [asyncio.run(Null().sample(request)).text for request in asked]


class InProcess:
    """Is the simulated engine without HTTP, for virtual time: a backend that records what it served."""

    fingerprint = f"openai:{MODEL}"
    slots = SLOTS

    def __init__(self) -> None:
        self._engine = Slots(scale=1.0)
        self.served: list[Served] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def sample(self, request: Request) -> Completion:
        """Answer as the server does."""
        return Completion(await self.ask(request.user_text), "stop", 16, ANSWER_TOKENS)

    async def ask(self, content: str) -> str:
        """Returns only the text of the answer."""
        clock = asyncio.get_running_loop().time
        arrived, asked = clock(), chat(content)
        text, tokens = await self._engine.answer(asked)
        self.served.append(Served(arrived, clock(), asked.stage, tokens))
        return text


async def plainly(ask: Callable[[str], Awaitable[str]], prompts: Sequence[str], answers: int) -> None:
    """Ask as the plain client: everything is queued, and what comes first is served first."""
    slots = asyncio.Semaphore(SLOTS)

    async def in_turn(content: str) -> str:
        async with slots:
            return await ask(content)

    async def answer_and_judge(prompt: str) -> None:
        answer = await in_turn(prompt)
        await in_turn(f"{JUDGE_OPENING}\n\n{prompt}\n\nThe answer:\n\n{answer}")

    async with asyncio.TaskGroup() as tasks:
        for prompt in prompts:
            for _ in range(answers):
                tasks.create_task(answer_and_judge(prompt))


async def plainly_over_http(url: str, prompts: Sequence[str], answers: int) -> None:
    """Ask as the plain client, over aiohttp."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(content: str) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 256}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                return str((await response.json())["choices"][0]["message"]["content"])

        await plainly(ask, prompts, answers)


async def with_fittest(engine: Backend, texts: Sequence[str], answers: int, *, raced: bool = False) -> list[Prompt]:
    """Evaluate prompts as a run does: by a judge of one vote, with everything in the journal."""
    prompts = [Prompt(text, Birth(operator="pool", generation=0, slot=slot)) for slot, text in enumerate(texts)]
    judge = JudgeReward(engine=engine.fingerprint, seeds=SEEDS, votes=1)
    track = RaceTrack(answers, ROUND, Absolute(CUTS).known, lambda generation: RIP_METRICS, None, 0.0, SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.sqlite")
        async with Feeder(engine, journal) as feeder:
            judge.connect(feeder.ask_all)
            evaluate = RipEvaluator(
                feeder=feeder,
                reward=judge,
                journal=journal,
                seeds=SEEDS,
                n=answers,
                sampling=Sampling(),
                length_unit=len,
                track=track if raced else None,
            )
            queue = iter(prompts)

            async def work() -> None:
                for prompt in queue:
                    await evaluate([prompt])

            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS_PER_SLOT * SLOTS):
                    workers.create_task(work())
        journal.close()
    return prompts


def said(measured: Measured) -> str:
    """Describes the figures of one client."""
    return f"idle {measured.idle:.3f}, {measured.tokens_per_second:.0f} tokens/s"


class OverHttp:
    """Runs both clients against the server, by the wall clock."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine

    def plain(self, prompts: Sequence[str], answers: int) -> Measured:
        """Measures the plain client."""
        self._engine.forget()
        asyncio.run(plainly_over_http(self._engine.url, prompts, answers))
        return self._engine.measured()

    def fittest(self, texts: Sequence[str], answers: int, *, raced: bool = False) -> tuple[Measured, list[Prompt]]:
        """Measures fittest."""
        self._engine.forget()
        backend = OpenAI(base_url=[self._engine.url], model=MODEL, slots=SLOTS)
        prompts = asyncio.run(with_fittest(backend, texts, answers, raced=raced))
        return self._engine.measured(), prompts


class InVirtualTime:
    """Runs both clients in this process, so that only the order in which they ask differs."""

    def plain(self, prompts: Sequence[str], answers: int) -> Measured:
        """Measures the plain client."""
        engine = InProcess()
        virtual_time.run(plainly(engine.ask, prompts, answers))
        return summed_up(engine.served)

    def fittest(self, texts: Sequence[str], answers: int, *, raced: bool = False) -> tuple[Measured, list[Prompt]]:
        """Measures fittest."""
        engine = InProcess()
        prompts = virtual_time.run(with_fittest(engine, texts, answers, raced=raced))
        return summed_up(engine.served), prompts


Where = OverHttp | InVirtualTime


def blocks(where: Where, prompts: Sequence[str]) -> tuple[float, float]:
    """Returns the idle fraction beyond the plain client's (medians), and the median share of its tokens per second."""
    plain, ours = [], []
    for number in range(len(prompts) // BLOCK):
        block = prompts[number * BLOCK : (number + 1) * BLOCK]
        if number % 2:
            plain.append(where.plain(block, ANSWERS))
        ours.append(where.fittest(block, ANSWERS)[0])
        if not number % 2:
            plain.append(where.plain(block, ANSWERS))
        for measured in (plain[-1], ours[-1]):
            assert (measured.answers, measured.judgments) == (BLOCK * ANSWERS, BLOCK * ANSWERS)
        click.echo(f"block {number + 1}: plain client {said(plain[-1])}; fittest {said(ours[-1])}")
    plain_idle, idle = (median(measured.idle for measured in client) for client in (plain, ours))
    share = median(b.tokens_per_second / a.tokens_per_second for a, b in zip(plain, ours, strict=True))
    click.echo(
        f"medians: plain client idle {plain_idle:.3f}; fittest idle {idle:.3f}"
        f" (bound {plain_idle + MORE_IDLE_THAN_PLAIN:.3f}), {share:.3f} of its tokens/s (bound {SHARE_OF_PLAIN_SPEED})"
    )
    return idle - plain_idle, share


def race(where: Where, texts: Sequence[str], answers: int) -> float:
    """Returns the idle fraction of a race."""
    measured, prompts = where.fittest(texts, answers, raced=True)
    stopped = sum(prompt.eliminated for prompt in prompts)
    click.echo(
        f"raced by {ROUND}: {len(prompts)} prompts x {answers}, {stopped} stopped,"
        f" {measured.answers / (len(prompts) * answers):.2f} of all rollouts; {said(measured)}"
    )
    return measured.idle


def all_held(where: Where, prompts: Sequence[str]) -> bool:
    """Measures everything; returns whether every bound holds."""
    more_idle, share = blocks(where, prompts)
    raced = race(where, prompts[:RACED], RACED_ANSWERS)
    click.echo(f"bound of that: idle {RACED_IDLE}")
    race(where, prompts[:BLOCK], ANSWERS)
    return more_idle <= MORE_IDLE_THAN_PLAIN and share >= SHARE_OF_PLAIN_SPEED and raced <= RACED_IDLE


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, help="Folder of the real prompts.")
@click.option("--virtual", is_flag=True, help="In virtual time, without HTTP.")
@click.option("--number", default=5, show_default=True, help="Blocks.")
@click.option("--scale", default=1.0, show_default=True, help="Stretches all times of the engine over HTTP.")
@click.option("--tries", default=1, show_default=True, help="How often a miss is measured.")
def main(data: Path, virtual: bool, number: int, scale: float, tries: int) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    prompts = some_prompts(data, max(number * BLOCK, RACED))
    if virtual:
        sys.exit(int(not all_held(InVirtualTime(), prompts)))
    with simulated_engine("slots", scale=scale) as engine:
        sys.exit(int(not any(all_held(OverHttp(engine), prompts) for _ in range(tries))))


if __name__ == "__main__":
    main()
