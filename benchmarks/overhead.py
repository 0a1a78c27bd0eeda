"""Measures the CPU time of fittest itself: feeder, journal and metrics per rollout, gates per candidate; and memory.

    python benchmarks/overhead.py

The cost of a rollout includes putting its response into a table. Engine and reward are the null ones; their own cost
is measured separately and subtracted. The program exits with status 1 when a bound is missed.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from fittest.evo.backends.null import Null
from fittest.evo.evolution import WORKERS_PER_SLOT
from fittest.evo.feeder import Feeder
from fittest.evo.gatekeeper import Gatekeeper
from fittest.evo.ordering import ReorderBuffer
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Message, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.rewards.null import NullReward
from fittest.operators.gates import build_gates
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.responses import ResponseBook

ROLLOUT_BOUND_MS = 0.3
GATE_BOUND_MS = 1.5
SAMPLING = Sampling(max_tokens=64)


async def written_prompts(count: int, seeds: SeedTree, *, operator: str) -> list[Prompt]:
    """Returns pseudo-prompts of the null engine."""
    engine = Null()
    prompts = []
    for slot in range(count):
        request = Request("proposal", SAMPLING, seeds.engine_seed(Stream.PROPOSAL, slot), prompt=operator)
        reply = await engine.sample(request)
        prompts.append(Prompt(reply.text, Birth(operator=operator, generation=0, slot=slot)))
    return prompts


async def null_cost(prompts: Sequence[Prompt], n: int) -> float:
    """Returns the CPU seconds that the null engine and reward alone take for the same work."""
    engine, reward = Null(), NullReward()
    began = time.process_time()
    for prompt in prompts:
        messages = (Message("user", prompt.text),)
        texts = [(await engine.sample(Request("rollout", SAMPLING, k, k, messages))).text for k in range(n)]
        reward.score([prompt.text] * n, texts)
    return time.process_time() - began


async def rollout_cost(
    prompts: Sequence[Prompt], n: int, journal: SqliteJournal, seeds: SeedTree, slots: int
) -> float:
    """Returns the CPU seconds for sampling, journalling, rewarding, measuring and putting away every prompt."""
    queue = iter(prompts)
    book = ResponseBook(Path(journal.path).parent / "responses", engine="null", length_unit=len)
    async with Feeder(Null(slots=slots), journal) as feeder:
        evaluate = RipEvaluator(
            feeder=feeder, reward=NullReward(), journal=journal, seeds=seeds, n=n, sampling=SAMPLING, length_unit=len
        )

        async def work() -> None:
            for prompt in queue:
                await evaluate([prompt])
                book.take(prompt, prompt.responses, reward_id="null")

        began = time.process_time()
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS_PER_SLOT * slots):
                workers.create_task(work())
        book.seal(0)
        return time.process_time() - began


async def gate_cost(archive: Sequence[Prompt], candidates: Sequence[Prompt], journal: SqliteJournal) -> float:
    """Returns the CPU seconds for passing embedded candidates through all gates, beside an archive of prompts."""
    gatekeeper = Gatekeeper(build_gates(), embedder=HashEmbedder(), journal=journal)
    reorder = ReorderBuffer()
    for slot, prompt in enumerate(archive):
        await gatekeeper.pass_through(prompt, reorder.in_order(slot))
    embedder = HashEmbedder()
    began = time.process_time()
    for prompt in candidates:
        prompt.embedding = embedder.embed([prompt.text])[0]
    click.echo(f"hash embedding: {(time.process_time() - began) / len(candidates) * 1e3:.3f} ms CPU per candidate")
    began = time.process_time()
    for slot, prompt in enumerate(candidates, start=len(archive)):
        await gatekeeper.pass_through(prompt, reorder.in_order(slot))
    spent = time.process_time() - began
    accepted = sum(prompt.gate is None for prompt in candidates)
    click.echo(f"gates: archive of {len(gatekeeper.archive) - accepted}, {accepted} of {len(candidates)} accepted")
    return spent


@click.command()
@click.option("--population", default=10_000, show_default=True)
@click.option("--candidates", default=2_000, show_default=True)
@click.option("-n", default=4, show_default=True, help="Responses per prompt.")
@click.option("--slots", default=64, show_default=True, help="Requests in flight; each commit is shared by them.")
def main(population: int, candidates: int, n: int, slots: int) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    with threadpool_limits(limits=1, user_api="blas"):  # as `fittest.run` does
        sys.exit(asyncio.run(measure(population, candidates, n, slots)))


async def measure(population: int, candidates: int, n: int, slots: int) -> int:
    """Measures everything, and returns the exit status."""
    seeds = SeedTree(1)
    pool = await written_prompts(population, seeds, operator="pool")
    offspring = await written_prompts(candidates, SeedTree(2), operator="self_rip")
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.sqlite")
        bare = await null_cost(pool, n)
        rollouts = (await rollout_cost(pool, n, journal, seeds, slots) - bare) / (population * n) * 1e3
        gates = await gate_cost(pool, offspring, journal) / candidates * 1e3
        journal.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(
        f"feeder, journal, metrics: {rollouts:.3f} ms CPU per rollout (bound {ROLLOUT_BOUND_MS}), {slots} slots"
    )
    click.echo(f"null engine and reward, taken off: {bare / (population * n) * 1e3:.3f} ms per rollout")
    click.echo(f"gates: {gates:.3f} ms CPU per candidate (bound {GATE_BOUND_MS})")
    click.echo(f"peak memory: {peak:.0f} MiB")
    return int(rollouts > ROLLOUT_BOUND_MS or gates > GATE_BOUND_MS)


if __name__ == "__main__":
    main()
