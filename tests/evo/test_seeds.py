"""Every draw comes from one tree; the global generators are never touched."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np

from fittest.evo.seeds import SeedTree, Stream
from fittest.runs.config import Config
from fittest.runs.session import run


def global_states() -> tuple[object, bytes]:
    return random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002


def test_a_place_in_the_tree_gives_the_same_draw_whatever_was_drawn_before() -> None:
    first = SeedTree(7)
    for slot in range(5):
        first.generator(Stream.SLOT, 1, slot).random()
    assert first.generator(Stream.SLOT, 1, 9).random() == SeedTree(7).generator(Stream.SLOT, 1, 9).random()


def test_neighbouring_places_stages_and_seeds_differ() -> None:
    tree = SeedTree(7)
    seeds = {tree.engine_seed(stream, g, s) for stream in Stream for g in range(10) for s in range(50)}
    assert len(seeds) == len(Stream) * 500
    assert tree.engine_seed(Stream.SLOT, 1, 2) != SeedTree(8).engine_seed(Stream.SLOT, 1, 2)


def test_seeds_of_a_prompts_first_samples_do_not_depend_on_how_many_there_are() -> None:
    tree = SeedTree(7)
    assert tree.engine_seeds(Stream.ROLLOUT, 99, count=64)[:4] == tree.engine_seeds(Stream.ROLLOUT, 99, count=4)


def test_engine_seeds_fit_every_engine() -> None:
    tree = SeedTree(1)
    assert all(0 <= tree.engine_seed(Stream.ROLLOUT, 2**63 + i, 0) < 2**31 for i in range(200))


def test_a_run_leaves_the_global_generators_alone(null_config: Config, tmp_path: Path) -> None:
    run(null_config, tmp_path / "first")  # importing scikit-learn draws from the global generator
    before = global_states()

    run(null_config, tmp_path / "second")

    assert global_states() == before


def test_global_seeds_do_not_change_a_run(null_config: Config, tmp_path: Path) -> None:
    tables = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        run(null_config, tmp_path / str(seed))
        tables.append((tmp_path / str(seed) / "survivors.parquet").read_bytes())
    assert tables[0] == tables[1]
