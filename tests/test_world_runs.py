"""What the benchmark of strategies measures of a run in a world: a function of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.world_runs import figures, random_prompts, retest
from fittest.evo.world import World
from fittest.runs import parse_config


def found(folder: Path, world: World) -> dict[str, Any]:
    pool = folder / "pool.txt"
    pool.write_text("\n".join(random_prompts(30, seed=1)))
    settings = {name: getattr(world, name) for name in ("heritability", "noise", "empty")}
    config = parse_config({
        "run": {"generations": 100, "population": 8},
        "pool": {"path": str(pool)},
        "engine": {"kind": "null", "slots": 2, "sampling": {"n": 4}, "world": settings},
        "reward": {"kind": "null"},
        "selection": {"metrics": ["m1"]},
        "operators": {"offspring": 16, "shots": 2},
        "gates": {"languages": [], "keywords": []},
        "diversity": {"embedder": "hash", "device": "cpu"},
        "budget": {"max_tokens": 20_000},
    })  # fmt: skip
    return figures(config, world, last=60, kept=8)


def test_a_run_is_measured_by_what_is_true_of_it(tmp_path: Path) -> None:
    world = World(heritability=0.5, noise=0.3, empty=0.0)
    first = found(tmp_path, world)
    assert first == found(tmp_path, world)
    assert first["generations"] >= 2
    assert first["tokens"] == pytest.approx(20_000, rel=0.03)
    assert 1 < first["breadth"] <= 8
    # with little noise, survivors by the worst answer are good, and offspring inherit half of that
    assert first["kept"] > 0.5
    assert 0.15 < first["last"] < first["kept"]


def test_fresh_draws_keep_more_where_answers_differ_less() -> None:
    assert retest(World(noise=0.1), 400)[1] > retest(World(noise=2.0), 400)[1] + 0.1
