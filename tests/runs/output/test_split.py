"""No parent–child edge crosses a split, whatever the families; what cannot be reached is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fittest.runs.output.atomic import write_parquet
from fittest.runs.output.export import export
from fittest.runs.output.export_options import ExportOptions
from fittest.runs.output.split import split_by_family
from tests.runs.output.exported_run import TEXTS, frame, responses, survivor, write_run


def ids(path: Path) -> list[str]:
    return [json.loads(line)["prompt_id"] for line in path.read_text(encoding="utf-8").splitlines()]


def family_tree(seed: int, size: int) -> list[dict[str, Any]]:
    """Prompts with up to two parents and two exemplars among those before them."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(size):
        before = [row["prompt_id"] for row in rows]
        parents = rng.choice(
            before, size=min(len(before), int(rng.integers(0, 3) * (rng.random() < 0.4))), replace=False
        )
        exemplars = rng.choice(before, size=min(len(before), 2), replace=False) if before else []
        rows.append(survivor(f"{number:04x}", parents=[*map(str, parents)], exemplars=[*map(str, exemplars)]))
    return rows


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.01, 0.9))
def test_no_edge_between_parent_and_child_crosses(seed: int, size: int, share: float) -> None:
    table = frame(*family_tree(seed, size))
    split = split_by_family(Path("nowhere"), table, share, 7)
    side = dict(zip(table["prompt_id"], split.test.tolist(), strict=True))
    for child, parents in table.select("prompt_id", "parents").iter_rows():
        assert {side[parent] for parent in parents} <= {side[child]}
    crossing = sum(
        side[child] != side[exemplar]
        for child, exemplars in table.select("prompt_id", "exemplars").iter_rows()
        for exemplar in exemplars
    )
    assert split.crossing == crossing
    assert f"{crossing} exemplar edges do" in split.notes[0]
    reached_exactly = int(split.test.sum()) == round(share * size)
    one_sided = len(set(split.test.tolist())) == 1
    assert len(split.notes) == 1 + (not reached_exactly) + one_sided


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [survivor(f"{number:04x}", parents=[f"{number - 1:04x}"] if number % 2 else []) for number in range(200)]
    return write_run(tmp_path / "run", frame(*rows), [answer for row in rows for answer in responses(row)])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_both_files_stand_beside_each_other_and_hold_every_row_once(run: Path, tmp_path: Path, suffix: str) -> None:
    result = export(run, to="verl", out=tmp_path / f"x.{suffix}", options=ExportOptions(split=0.05))
    assert [path.name for path, _ in result.files] == [f"x-train.{suffix}", f"x-test.{suffix}"]
    assert [rows for _, rows in result.files] == [190, 10]
    read = pl.read_parquet if suffix == "parquet" else pl.read_ndjson
    train, test = (read(path) for path, _ in result.files)
    assert train.schema == test.schema
    both = pl.concat([train, test])["extra_info"].struct.unnest()
    assert sorted(both["index"].to_list()) == list(range(200))
    assert both["split"].to_list() == ["train"] * 190 + ["test"] * 10
    card = result.card.read_text()
    assert "- split: 10 of 200 survivors for testing (5.0%); no parent–child edge crosses it" in card
    assert f"- x-test.{suffix}: 10 rows for verl" in card


def test_a_split_depends_on_seed_and_prompts_alone(run: Path, tmp_path: Path) -> None:
    options = ExportOptions(split=0.1)
    first = [ids(path) for path, _ in export(run, to="prompts", out=tmp_path / "x.jsonl", options=options).files]
    for to in ("grpo", "trl-preference"):
        again = export(run, to=to, out=tmp_path / "y.jsonl", options=options)
        assert [ids(path) for path, _ in again.files] == first
    every = [ids(path) for path, _ in export(run, to="responses", out=tmp_path / "z.jsonl", options=options).files]
    assert [list(dict.fromkeys(side)) for side in every] == first
    (run / "run.toml").write_text("[run]\nseed = 8\n")
    other = [ids(path) for path, _ in export(run, to="prompts", out=tmp_path / "x.jsonl", options=options).files]
    assert other != first


def test_one_family_cannot_be_divided_and_this_is_said(tmp_path: Path) -> None:
    rows = [survivor(f"{number:04x}", parents=["0000"] if number else []) for number in range(20)]
    run = write_run(tmp_path / "run", frame(*rows))
    result = export(run, to="prompts", out=tmp_path / "x.parquet", options=ExportOptions(split=0.25))
    assert [rows for _, rows in result.files] == [20, 0]
    assert pl.read_parquet(tmp_path / "x-test.parquet").schema == pl.read_parquet(tmp_path / "x-train.parquet").schema
    assert result.notes[1:] == (
        "the share 0.25 could not be reached, since families are not divided: the survivors form 1 of them, the"
        " largest has 20",
        "no survivor is left for testing",
    )


def test_a_large_family_is_taken_where_the_share_has_room_for_it(tmp_path: Path) -> None:
    rows = [survivor(f"{number:04x}", parents=["0000"] if 0 < number < 80 else []) for number in range(100)]
    run = write_run(tmp_path / "run", frame(*rows))
    result = export(run, to="prompts", out=tmp_path / "x.jsonl", options=ExportOptions(split=0.9))
    assert [rows for _, rows in result.files] == [10, 90]
    assert len(result.notes) == 1


@pytest.mark.parametrize(("share", "side"), [(0.999, "training"), (0.001, "testing")])
def test_a_side_without_survivors_is_said(share: float, side: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", frame(*(survivor(f"{number:04x}") for number in range(20))))
    result = export(run, to="prompts", out=tmp_path / "x.jsonl", options=ExportOptions(split=share))
    assert result.notes[1:] == (f"no survivor is left for {side}",)


def test_families_that_are_all_too_large_give_the_smallest(tmp_path: Path) -> None:
    rows = [survivor(f"{number:04x}", parents=["0000" if number < 12 else "000c"]) for number in range(20)]
    run = write_run(tmp_path / "run", frame(*rows))
    result = export(run, to="prompts", out=tmp_path / "x.jsonl", options=ExportOptions(split=0.1))
    assert [rows for _, rows in result.files] == [12, 8]
    assert "split: 8 of 20 survivors for testing (40.0%)" in result.notes[0]
    assert "could not be reached" in result.notes[1]


def test_families_hold_together_through_prompts_that_did_not_survive(tmp_path: Path) -> None:
    """a → x → b: x failed, but a and b are grandparent and grandchild."""
    rows = [survivor("a"), survivor("b", generation=2, parents=["x"]), survivor("c"), survivor("d")]
    run = write_run(tmp_path / "run", frame(*rows))
    born = [*rows, survivor("x", generation=1, parents=["a"])]
    table = pl.DataFrame(born, schema_overrides={"parents": TEXTS, "exemplars": TEXTS}).with_columns(
        gate=pl.lit(None, dtype=pl.String)
    )
    write_parquet(run / "generations" / "0000.parquet", table)
    for seed in range(20):
        split = split_by_family(run, frame(*rows), 0.5, seed)
        assert split.test[0] == split.test[1]
