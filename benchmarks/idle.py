"""How busy slots are kept by work in two steps: answers of very different length, and a judgment of each.

    python benchmarks/idle.py
    python benchmarks/idle.py --tries 3

`simulated_engine.py` (16 slots, heavy-tailed times) is asked by fittest (feeder, journal, judge and evaluator), and by
a plain client: a semaphore of 16, each answer judged when its turn comes. Five blocks of 32 prompts, four answers to
each, both clients in turn; then races with cuts that are known. The engine measures both in the same way.
Prompts are the first ones of `human_prompts.parquet` under 2,000 characters, from `../shared/data` or the folder
given, or, where there are none, texts of the null engine. Exits with status 1 when a bound is missed; where other
programs take the processor from the client, which only adds to what is idle, `--tries` measures a miss again.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import aiohttp
import click
import polars as pl
from simulated_engine import JUDGE_OPENING, SLOTS, Measured, SimulatedEngine, simulated_engine

from evo.backends.null import Null
from evo.backends.openai import OpenAI
from evo.evolution import WORKERS_PER_SLOT
from evo.feeder import Feeder
from evo.prompt import Prompt
from evo.records import RIP_METRICS, Birth, Range, Request, Sampling, Thresholds
from evo.seeds import SeedTree
from fitness.evaluator import RipEvaluator
from fitness.racing import RaceTrack
from fitness.rewards.judge import JudgeReward
from operators.policies import Absolute
from runs.journal import SqliteJournal

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LONGEST_PROMPT = 2000
BLOCKS, BLOCK, ANSWERS = 5, 32, 4
RACED, RACED_ANSWERS, ROUND = 128, 8, 2
MORE_IDLE_THAN_PLAIN = 0.01
SHARE_OF_PLAIN_SPEED = 0.98
RACED_IDLE = 0.08
CUTS = Thresholds("absolute", {"m1": Range(low=6.0), "m3": Range(high=3.0)})
"""About half of the prompts of the simulated engine fail them."""

MODEL = "simulated"
SEEDS = SeedTree(1)


def some_prompts(data: Path, count: int) -> list[str]:
    """Prompts that people wrote, or, where there are none, pseudo-prompts."""
    table = data / "prompts" / "human_prompts.parquet"
    if table.is_file():
        found = pl.scan_parquet(table).filter(pl.col("prompt").str.len_chars() < LONGEST_PROMPT).head(count).collect()
        return found["prompt"].to_list()
    asked = [Request("rollout", Sampling(), seed, prompt="") for seed in range(count)]
    return [asyncio.run(Null().sample(request)).text for request in asked]


async def plainly(url: str, prompts: Sequence[str], answers: int) -> None:
    """The plain client: everything is queued first come, first served."""
    slots = asyncio.Semaphore(SLOTS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(content: str) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 256}
            async with slots, session.post(f"{url}/chat/completions", json=body) as response:
                text = (await response.json())["choices"][0]["message"]["content"]
            return str(text)

        async def answer_and_judge(prompt: str) -> None:
            answer = await ask(prompt)
            await ask(f"{JUDGE_OPENING}\n\n{prompt}\n\nThe answer:\n\n{answer}")

        async with asyncio.TaskGroup() as tasks:
            for prompt in prompts:
                for _ in range(answers):
                    tasks.create_task(answer_and_judge(prompt))


async def with_fittest(url: str, texts: Sequence[str], answers: int, *, raced: bool = False) -> list[Prompt]:
    """As a run does it: prompts evaluated by a judge of one vote, everything journalled."""
    prompts = [Prompt(text, Birth(operator="pool", generation=0, slot=slot)) for slot, text in enumerate(texts)]
    engine = OpenAI(base_url=[url], model=MODEL, slots=SLOTS)
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
    """One client's figures."""
    return f"idle {measured.idle:.3f}, {measured.tokens_per_second:.0f} tokens/s"


def blocks(engine: SimulatedEngine, prompts: Sequence[str]) -> tuple[float, float]:
    """Idle fraction beyond the plain client's (of the medians), and share of its tokens per second (the median)."""
    idle: dict[str, list[float]] = {"plain": [], "fittest": []}
    shares = []
    for number in range(BLOCKS):
        block = prompts[number * BLOCK : (number + 1) * BLOCK]
        found = {}
        for client in ("plain", "fittest") if number % 2 else ("fittest", "plain"):
            engine.forget()
            asyncio.run((plainly if client == "plain" else with_fittest)(engine.url, block, ANSWERS))
            found[client] = engine.measured()
            assert (found[client].answers, found[client].judgments) == (BLOCK * ANSWERS, BLOCK * ANSWERS)
            idle[client].append(found[client].idle)
        shares.append(found["fittest"].tokens_per_second / found["plain"].tokens_per_second)
        click.echo(f"block {number + 1}: plain client {said(found['plain'])}; fittest {said(found['fittest'])}")
    plain, fittest, share = median(idle["plain"]), median(idle["fittest"]), median(shares)
    click.echo(
        f"medians: plain client idle {plain:.3f}; fittest idle {fittest:.3f}"
        f" (bound {plain + MORE_IDLE_THAN_PLAIN:.3f}), {share:.3f} of its tokens/s (bound {SHARE_OF_PLAIN_SPEED})"
    )
    return fittest - plain, share


def race(engine: SimulatedEngine, texts: Sequence[str], answers: int) -> float:
    """Idle fraction of a race."""
    engine.forget()
    prompts = asyncio.run(with_fittest(engine.url, texts, answers, raced=True))
    measured = engine.measured()
    stopped = sum(prompt.stopped for prompt in prompts)
    click.echo(
        f"raced by {ROUND}: {len(prompts)} prompts x {answers}, {stopped} stopped,"
        f" {measured.answers / (len(prompts) * answers):.2f} of all rollouts; {said(measured)}"
    )
    return measured.idle


def all_held(engine: SimulatedEngine, prompts: Sequence[str]) -> bool:
    """Measure everything; whether no bound is missed."""
    more_idle, share = blocks(engine, prompts)
    raced = race(engine, prompts[:RACED], RACED_ANSWERS)
    click.echo(f"bound of that: idle {RACED_IDLE}")
    race(engine, prompts[:BLOCK], ANSWERS)
    return more_idle <= MORE_IDLE_THAN_PLAIN and share >= SHARE_OF_PLAIN_SPEED and raced <= RACED_IDLE


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, help="Folder of the real prompts.")
@click.option("--scale", default=1.0, show_default=True, help="Stretches all times of the engine.")
@click.option("--tries", default=1, show_default=True, help="How often a miss is measured.")
def main(data: Path, scale: float, tries: int) -> None:
    """Measure and hold against the bounds."""
    prompts = some_prompts(data, BLOCKS * BLOCK)
    with simulated_engine("slots", scale=scale) as engine:
        sys.exit(int(not any(all_held(engine, prompts) for _ in range(tries))))


if __name__ == "__main__":
    main()
