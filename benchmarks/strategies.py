"""Compares ways to search at equal cost in a world with known truth, where each prompt's real quality is known.

    python benchmarks/strategies.py

The world is that of docs/design/world.md. Every arm has the same pool, landscape and tokens in a seed, and differs in
the settings that `ARMS` names for it.
"""

from __future__ import annotations

from dataclasses import dataclass

# What follows was fixed before any arm was run. Arms may be tuned on TUNING_SEEDS, and are reported on others.

WORLD = {"ruggedness": 2, "noise": 0.6, "empty": 0.02}
"""The world, but for heritability and for the seed, which is that of the run: every seed has a landscape of its own.
At this noise, about a third of the prompts that one draw of five keeps are kept on a fresh draw."""

OUTCOME = "last"
"""The primary outcome: the mean true quality of the last generation. That is `Setup.last` offspring which the stock
breeds when the tokens are spent. They are not evaluated and cost nothing, so no arm gains by how its tokens end."""

FURTHER = {
    "kept": "mean true quality of the kept: as many offspring in each arm, by its own ranking",
    "spread": "mean true standard deviation of rewards of answers to the kept; smaller is better",
    "breadth": "Vendi score of the kept",
    "generations": "finished generations of offspring",
    "tokens": "prompt and completion tokens, those of the pool included",
}
"""What is reported beside it; nothing is claimed of these."""


@dataclass(frozen=True)
class Setup:
    """The size of an experiment.

    Attributes:
        heritability: of the world.
        seeds: those that are reported, one run each in every arm.
        pool: prompts of random words that the runs begin with.
        offspring: of a generation.
        tokens: what each run may spend.
        last: offspring by which the last generation is measured.
        kept: how many offspring are kept.
    """

    heritability: float
    seeds: range
    pool: int = 64
    offspring: int = 32
    tokens: int = 52_000
    last: int = 96
    kept: int = 16


SETUPS = {
    "heritability 0": Setup(0.0, range(40)),
    "heritability 0.2": Setup(0.2, range(80)),
    "heritability 0.5": Setup(0.5, range(40)),
    "flat": Setup(0.0, range(10_000, 10_800), pool=16, offspring=12, tokens=11_000, last=24, kept=4),
}
"""Where nothing is inherited, no arm can breed better prompts than another. The small runs of "flat" make up
`FLAT_EXPERIMENTS`, in each of which every arm has as many seeds of its own."""

TUNING_SEEDS = range(1_000, 1_040)
FLAT_EXPERIMENTS = 200

COMMON = {
    "run": {"mode": "generational", "generations": 1_000, "population": 16},
    "engine": {"kind": "null", "slots": 8, "sampling": {"n": 5, "max_tokens": 256}},
    "reward": {"kind": "null"},
    "selection": {"policy": "quantile", "quantile": 0.5},
    "operators": {"shots": 4},
    "gates": {"languages": [], "keywords": []},
    "diversity": {"embedder": "hash", "device": "cpu"},
}
"""The configuration that all arms share."""

ALPHA = 0.05
"""Two-sided, for paired t tests over the seeds, by Holm over all comparisons at one heritability."""

RETEST = (0.28, 0.38)
"""Between which the share of the kept that are kept again on a fresh draw of five must be."""
