"""An evolution of hand-made parts: a prompt says in its text how good it is, and no model is asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from deap import base

from fittest.evo.arms import ARMS
from fittest.evo.backends.null import Null
from fittest.evo.breeding import Breeder
from fittest.evo.evolution import Evolution
from fittest.evo.feeder import Feeder
from fittest.evo.gatekeeper import Gatekeeper
from fittest.evo.prompt import Prompt
from fittest.evo.records import Failure, Metrics, PoolPrompt, Range, Sampling, Thresholds
from fittest.evo.seeds import SeedTree
from fittest.evo.shares import Shares
from fittest.evo.spending import Budget
from fittest.evo.state import Settings
from fittest.fitness.diversity import EqualSizeVendi, NeighbourDiversity, vendi_score
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.operators.gates import Exact
from fittest.operators.policies import Absolute
from fittest.operators.rejection import failed_metrics
from fittest.operators.trimming import select_by_rank_and_diversity
from fittest.runs.output.journal import SqliteJournal

GOOD = 0.5
"""The least m1 that survives."""


def worth(text: str) -> float:
    """The number at the end of a text: "prompt 0.75" has a worst answer of reward 0.75."""
    return float(re.findall(r"[\d.]+$", text)[0])


def pool_of(*worths: float) -> list[PoolPrompt]:
    return [PoolPrompt(f"human {number} is worth {value}") for number, value in enumerate(worths)]


class NoBad:
    """A gate that keeps out what says that it is bad, and notes in which order it was asked."""

    name, ordered, screens_pool, needs_embedding = "no_bad", True, True, False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check(self, prompt: Prompt) -> str | None:
        self.asked.append(prompt.text)
        return "it says so" if "bad" in prompt.text else None

    def admit(self, prompt: Prompt) -> None:
        return


@dataclass
class Evaluated:
    """An evaluate that reads the worth in a text, and keeps what it was given, in that order."""

    texts: list[str] = field(default_factory=list)

    async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...]]:
        for prompt in individuals:
            self.texts.append(prompt.text)
            prompt.n_drawn = 2
            prompt.metrics = Metrics(worth(prompt.text), 10, 0.25, 0, 1, 2)
        return [prompt.metrics.values[:3] for prompt in individuals if prompt.metrics is not None]


async def improve(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    """An offspring of any worth, written after a wait of any length."""
    value, ticks = rng.random(), int(rng.integers(6))
    for _ in range(ticks):
        await asyncio.sleep(0)
    return f"offspring of {parent.id} is worth {value:.6f}"


def toolbox_of(**functions: Any) -> base.Toolbox:
    """The functions of a run, some of them replaced."""
    toolbox = base.Toolbox()
    usual = {
        "evaluate": Evaluated(),
        "mutate": improve,
        "select": select_by_rank_and_diversity,
        "stock": ARMS["evolution"],
        "reject": failed_metrics,
        "diversity": NeighbourDiversity(neighbours=2, device="cpu"),
        "vendi": vendi_score,
        "breadth": EqualSizeVendi(SeedTree(1)),
        "parse": lambda text, reason: text or Failure("nothing was written"),
    }
    for name, function in {**usual, **functions}.items():
        toolbox.register(name, function)
    return toolbox


def evolution_of(
    pool: Sequence[PoolPrompt],
    *,
    loop: type[Evolution] = Evolution,
    toolbox: base.Toolbox | None = None,
    backend: Any = None,
    budget: Budget | None = None,
    journal: SqliteJournal | None = None,
    policy: Any = None,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Evolution:
    """Puts hand-made parts together; prompts survive that are worth `GOOD` or more."""
    toolbox = toolbox or toolbox_of()
    journal = journal or SqliteJournal(":memory:")
    feeder = Feeder(backend or Null(slots=2), journal, budget=budget)
    return loop(
        pool=pool,
        toolbox=toolbox,
        feeder=feeder,
        gatekeeper=Gatekeeper(more.pop("gates", [Exact()]), embedder=HashEmbedder(dimension=16), journal=journal),
        breeder=Breeder(
            toolbox=toolbox,
            feeder=feeder,
            seeds=SeedTree(1),
            shares=Shares(more.pop("mix", {"mutate": 1.0})),
            shots=2,
            sampling=Sampling(max_tokens=8),
        ),
        policy=policy or Absolute(Thresholds("absolute", {"m1": Range(low=GOOD)})),
        settings=Settings(**{"generations": 2, "offspring": 6, **(settings or {})}),
        **more,
    )


def texts(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]
