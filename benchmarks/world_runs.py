"""Runs in a world with known truth, and what they really found; everything but the model is real."""

from __future__ import annotations

import asyncio
import random
import statistics

import numpy as np

from fittest.evo.backends.null import WORDS, Null
from fittest.evo.breeding import ALIASES, proposal_request
from fittest.evo.evolution import Evolution
from fittest.evo.prompt import Prompt
from fittest.evo.records import Message, Request, Sampling
from fittest.evo.world import LOCI, World
from fittest.fitness.diversity import vendi_score
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.rewards.null import NullReward
from fittest.runs import Config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import build


def random_prompts(count: int, seed: int) -> list[str]:
    """Returns prompts of random words."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, LOCI)).capitalize() + "." for _ in range(count)]


def figures(config: Config, world: World, *, last: int, kept: int) -> dict[str, float | None]:
    """Returns the figures of one run, in which everything but the model is real; None of the kept if there are none.

    Args:
        config: of the run, which is in this world.
        world: knows the truth.
        last: offspring by which the last generation is measured.
        kept: how many offspring are kept.
    """
    with SqliteJournal(":memory:") as journal:
        evolution = build(config, journal=journal)
        asyncio.run(evolution.run())
        best = best_offspring(evolution, kept)
        born = asyncio.run(last_generation(evolution, config, Null(world=world), last))
    archive = evolution.gatekeeper.archive
    truths = [world.truth(prompt.text) for prompt in best]
    return {
        "last": statistics.fmean(world.truth(text).quality for text in born),
        "kept": statistics.fmean(truth.quality for truth in truths) if best else None,
        "spread": statistics.fmean(truth.spread for truth in truths) if best else None,
        "breadth": vendi_score(archive.embeddings[archive.rows(best)]) if best else None,
        "generations": float(len(evolution.state.finished) - 1),
        "tokens": float(evolution.feeder.traffic.total.tokens),
    }


def best_offspring(evolution: Evolution, count: int) -> list[Prompt]:
    """Returns the best offspring by the run's own ranking: survivors, and then those that failed."""
    offspring = [prompt for done in evolution.state.finished[1:] for prompt in done.candidates if prompt.metrics]
    survivors = [prompt for prompt in offspring if prompt.survived]
    failed = [prompt for prompt in offspring if not prompt.survived]
    first = evolution.toolbox.select(survivors, count)
    return [*first, *evolution.toolbox.select(failed, count - len(first))]


async def last_generation(evolution: Evolution, config: Config, engine: Null, count: int) -> list[str]:
    """Returns offspring that are bred from the stock at the end; they pass the parser, and are not evaluated."""
    stock, number, drawn = evolution.survival.stock(), len(evolution.state.finished), config.operators.sampling
    sampling, found = Sampling(drawn.temperature, drawn.top_p, drawn.max_tokens), []
    for slot in range(count):
        draw = evolution.breeder.draw(number, stock, slot)
        operator = getattr(evolution.toolbox, ALIASES.get(draw.operator, draw.operator))
        proposal = operator(*draw.parents, exemplars=[*draw.exemplars, *draw.topped_up], rng=draw.rng)
        reply = await engine.sample(proposal_request(proposal, "completion", sampling=sampling, seed=slot))
        candidate = evolution.toolbox.parse(reply.text, reply.finish_reason)
        found += [candidate] if isinstance(candidate, str) else []
    return found


def retest(world: World, count: int) -> tuple[float, float]:
    """Returns the share of random prompts that medians of five answers keep, and of these on five fresh answers."""
    texts, engine, reward = random_prompts(count, seed=0), Null(world=world), NullReward(world)
    draws = []
    for samples in (range(5), range(5, 10)):
        rewards, lengths = [], []
        for text in texts:
            requests = [Request("rollout", Sampling(), k, k, (Message("user", text),)) for k in samples]
            answers = [asyncio.run(engine.sample(request)).text for request in requests]
            rewards += reward.score([text] * 5, answers)
            lengths += [len(answer) for answer in answers]
        draws.append(rip_metrics(np.array(rewards), np.array(lengths), np.full(count, 5)).values[:, :3])
    cuts = np.median(draws[0], axis=0)
    signs = np.array([1.0, 1.0, -1.0])
    first, again = (((draw - cuts) * signs >= 0).all(axis=1) for draw in draws)
    return float(first.mean()), float(again[first].mean())
