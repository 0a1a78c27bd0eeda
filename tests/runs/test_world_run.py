"""A run in a world with known truth: journal, racing, gates and tables are real, and the truth explains them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.world import World
from fittest.runs import parse_config, run
from fittest.runs.parts.assembly import parts_of
from tests.conftest import null_tables


def world_tables(**sections: dict[str, Any]) -> dict[str, Any]:
    tables = null_tables(engine={"world": {"heritability": 0.5, "empty": 0.1}}, selection={"race_round": 0})
    for name, section in sections.items():
        tables[name] = {**tables[name], **section}
    return tables


def candidates(folder: Path) -> pl.DataFrame:
    files = sorted((folder / "generations").glob("*.parquet"))
    return pl.concat([pl.read_parquet(file).with_columns(generation=i) for i, file in enumerate(files)])


@pytest.mark.parametrize("form", ["completion", "chat"])
def test_offspring_of_a_run_share_phrases_with_those_they_are_bred_from(tmp_path: Path, form: str) -> None:
    run(parse_config(world_tables(operators={"offspring": 60, "form": form})), tmp_path)
    table = candidates(tmp_path)
    words = {row["prompt_id"]: row["prompt"].lower().rstrip(".").split() for row in table.iter_rows(named=True)}
    offspring = table.filter(pl.col("generation") > 0, pl.col("gate").is_null())
    shares = []
    for row in offspring.iter_rows(named=True):
        family = {word.strip(",?!:") for parent in row["parents"] or row["exemplars"] for word in words[parent]}
        shares.append(np.mean([word in family for word in words[row["prompt_id"]]]))
    # half of the phrases, and the words that complete them
    assert offspring.height > 80
    assert 0.5 < np.mean(shares) < 0.9


def test_the_truth_is_what_a_run_measures_with_noise(tmp_path: Path) -> None:
    run(parse_config(world_tables(engine={"world": {"noise": 0.3}})), tmp_path)
    table = candidates(tmp_path).filter(pl.col("m1").is_not_null())
    truths = [World(noise=0.3).truth(prompt) for prompt in table["prompt"]]
    assert np.corrcoef(table["m1"], [truth.quality for truth in truths])[0, 1] > 0.8
    assert np.corrcoef(table["m2"], [truth.words for truth in truths])[0, 1] > 0.8
    assert np.corrcoef(table["m3"], [truth.spread for truth in truths])[0, 1] > 0.5


def test_empty_proposals_are_turned_away_in_the_share_that_is_set(tmp_path: Path) -> None:
    run(parse_config(world_tables(run={"generations": 1}, operators={"offspring": 400})), tmp_path)
    offspring = candidates(tmp_path).filter(pl.col("generation") == 1)
    empty = offspring.filter(pl.col("gate") == "parse")
    assert set(empty["gate_reason"]) == {"empty"}
    assert empty.height / offspring.height == pytest.approx(0.1, abs=0.05)


def test_the_same_run_twice_leaves_the_same_tables(tmp_path: Path) -> None:
    tables = world_tables(selection={"race_round": 2})
    for name in ("one", "two"):
        run(parse_config(tables), tmp_path / name)
    for file in ("generations/0002.parquet", "responses/0001.parquet", "survivors.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_run_goes_on_in_its_own_world_only(tmp_path: Path) -> None:
    tables = world_tables()
    run(parse_config(tables), tmp_path)
    more = world_tables(run={"generations": 3})
    assert run(parse_config(more), tmp_path, resume=True).summary["generations"] == 3
    with pytest.raises(FittestError, match="heritability"):
        run(parse_config(world_tables(engine={"world": {"heritability": 0.2}})), tmp_path, resume=True)


def test_the_reward_is_of_the_engines_world_unless_another_is_given() -> None:
    parts = parts_of(parse_config(world_tables()))
    assert parts.reward.fingerprint == parts.fingerprints["engine"]
    other = parts_of(parse_config(world_tables(reward={"world": {"noise": 0.0}})))
    assert other.reward.fingerprint == f"null:1:{World(noise=0.0).fingerprint}"
    assert parts_of(parse_config(null_tables())).reward.fingerprint == "null:1"


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"heritability": 0.9}, r"engine.world.heritability = 0.9.*0.5"),
        ({"ruggedness": 10}, r"engine.world.ruggedness = 10.*9"),
        ({"heritabilty": 0.2}, "did you mean engine.world.heritability"),
    ],
)
def test_a_wrong_setting_is_told(world: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config(world_tables(engine={"world": world}))
