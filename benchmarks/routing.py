"""Measures whether the prefix caches of several servers are as much use as the cache of one.

    python benchmarks/routing.py

A whole run (pool, races in rounds of two, a judge of several votes, two generations of offspring) asks simulated
servers with prefix caches (`caching_engine.py`) in virtual time: first one server, then eight, each with an eighth of
its slots and of its cache. The eight are asked in three ways. By prompt is how the engine `openai` asks them. In turn
is the same, but without a choice among the requests that wait. By load, the least loaded server is asked, whatever it
has read. The program exits with status 1 when the eight, asked by prompt, find less than 0.9 of the cached tokens of
the one, or when their slots are idle for a share of the time that is more than 0.03 larger.

The prompts are the first of `human_prompts.parquet` from `../shared/data` or the given folder, or those that fittest
brings along if the file is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self
from unittest.mock import patch

import click
import virtual_time
from caching_engine import CachingEngine, Read
from simulated_engine import summed_up

from fittest import runs
from fittest.evo.backends.servers import Server, Servers
from fittest.evo.records import Completion, Request
from fittest.runs.config import parse_config
from fittest.runs.parts import engines

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LEAST_CACHED, MOST_IDLE = 0.9, 0.03
GENERATIONS = 2

Way = Literal["by prompt", "by prompt, in turn", "by load"]


@dataclass(frozen=True)
class Course:
    """Holds the figures of one run; shares are of prompt tokens, `idle` is of slot time."""

    servers: int
    way: Way
    requests: int
    prompt_tokens: int
    cached: float
    cached_by_stage: dict[str, float]
    idle: float
    seconds: float
    survivors: int


class Cluster:
    """Is an engine of simulated servers behind the class that the engine `openai` uses.

    Args:
        servers: how many there are.
        slots: requests in flight at once, all servers together.
        blocks: blocks of cache, all servers together.
        way: how a server is chosen.
    """

    fingerprint = "simulated"

    def __init__(self, servers: int, *, slots: int, blocks: int, way: Way) -> None:
        self.slots = slots
        self._way = way
        self.engines = {
            f"http://server-{i}/v1": CachingEngine(-(-slots // servers), blocks // servers) for i in range(servers)
        }
        self._servers = Servers(list(self.engines), slots=slots, probe=_never, patience=300.0, timeout=600.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._servers.close()

    def best_next(self, waiting: Iterable[Sequence[Request]], room: int) -> Sequence[int]:
        """Returns the positions of the requests that go first."""
        if self._way != "by prompt":
            return []
        return self._servers.best_next(((some[0].subject, len(some)) for some in waiting), room)

    async def sample(self, request: Request) -> Completion:
        """Answers one request."""
        server = await self._servers.take(None if self._way == "by load" else request.subject)
        try:
            reply = await self.engines[server.url].sample(request)
            self._servers.answered(server)
            return reply
        finally:
            self._servers.release(server)

    @property
    def read(self) -> list[Read]:
        """Returns all that was served."""
        return [read for engine in self.engines.values() for read in engine.read]


async def _never(server: Server) -> bool:
    raise AssertionError(f"{server.url} is never down")


@dataclass(frozen=True)
class Work:
    """Says what is run: prompts in the pool, answers to each, votes on each answer, offspring of a generation."""

    pool: Path | None
    prompts: int
    answers: int
    votes: int
    offspring: int

    def config(self, slots: int) -> runs.Config:
        """Returns the configuration of a run."""
        return parse_config(
            {
                "run": {"seed": 1, "generations": GENERATIONS},
                "pool": {"path": str(self.pool or "builtin:starter"), "limit": self.prompts},
                "engine": {"kind": "null", "slots": slots, "sampling": {"n": self.answers}},
                "reward": {"kind": "judge", "votes": self.votes},
                "selection": {"policy": "absolute", "min_reward": 6.0, "max_gap": 3.0},
                "operators": {"offspring": self.offspring, "shots": 4},
                "diversity": {"embedder": "hash", "device": "cpu"},
            }
        )


def course(work: Work, cluster: Cluster, way: Way) -> Course:
    """Does a whole run in a folder of its own."""
    config = work.config(cluster.slots)
    with tempfile.TemporaryDirectory() as folder, patch.object(engines, "null", lambda section: cluster):
        result = virtual_time.run(runs.arun(config, folder))
    read = cluster.read
    measured = summed_up([one.served for one in read], cluster.slots)
    stages = sorted({one.served.stage for one in read})
    return Course(
        servers=len(cluster.engines),
        way=way,
        requests=len(read),
        prompt_tokens=sum(one.prompt_tokens for one in read),
        cached=_cached(read),
        cached_by_stage={stage: _cached([one for one in read if one.served.stage == stage]) for stage in stages},
        idle=measured.idle,
        seconds=measured.seconds,
        survivors=result.summary["survivors"],
    )


def _cached(read: Sequence[Read]) -> float:
    return sum(one.cached_tokens for one in read) / max(1, sum(one.prompt_tokens for one in read))


def said(found: Course) -> str:
    """Describes a course in one line."""
    stages = ", ".join(f"{stage} {share:.3f}" for stage, share in found.cached_by_stage.items())
    servers = "1 server" if found.servers == 1 else f"{found.servers} servers, {found.way}"
    return (
        f"{servers}: cached {found.cached:.3f} ({stages}), idle {found.idle:.3f},"
        f" {found.seconds:.1f} s, {found.requests} requests, {found.survivors} survivors"
    )


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=SHARED_DATA, help="Folder of the real prompts.")
@click.option("--servers", default=8, show_default=True)
@click.option("--slots", default=64, show_default=True, help="Of all servers together.")
@click.option("--blocks", default=64, show_default=True, help="Blocks of 16 tokens for each slot.")
@click.option("--prompts", default=200, show_default=True, help="In the pool.")
@click.option("--answers", default=8, show_default=True, help="To each prompt.")
@click.option("--votes", default=4, show_default=True, help="On each answer.")
@click.option("--offspring", default=128, show_default=True, help="In each of two generations.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(
    data: Path,
    servers: int,
    slots: int,
    blocks: int,
    prompts: int,
    answers: int,
    votes: int,
    offspring: int,
    as_json: Path | None,
) -> None:
    """Measure, print, and exit with status 1 when a bound is missed."""
    table = data / "prompts" / "human_prompts.parquet"
    work = Work(table if table.is_file() else None, prompts, answers, votes, offspring)
    ways: list[tuple[int, Way]] = [
        (1, "by prompt"),
        (servers, "by prompt"),
        (servers, "by prompt, in turn"),
        (servers, "by load"),
    ]
    found = []
    for count, way in ways:
        cluster = Cluster(count, slots=slots, blocks=slots * blocks, way=way)
        found.append(course(work, cluster, way))
        click.echo(said(found[-1]))
    one, routed = found[0], found[1]
    share, more_idle = routed.cached / one.cached, routed.idle - one.idle
    held = share >= LEAST_CACHED and more_idle <= MOST_IDLE
    click.echo(
        f"{servers} servers, by prompt: {share:.3f} of the cached tokens of one server (bound {LEAST_CACHED}),"
        f" idle {more_idle:+.3f} (bound +{MOST_IDLE})"
    )
    if as_json is not None:
        figures = {"courses": [asdict(one) for one in found], "share": share, "more_idle": more_idle, "held": held}
        as_json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(int(not held))


if __name__ == "__main__":
    main()
