"""responses/NNNN.parquet holds every response drawn, whatever the memory, and the survivors follow from it."""

from __future__ import annotations

import gc
import hashlib
import resource
import shutil
import signal
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fittest
from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Response
from fittest.runs import parse_config, run
from fittest.runs.output import responses as module
from fittest.runs.output import store
from fittest.runs.output.atomic import write_parquet_in_pieces
from fittest.runs.output.responses import RESPONSE_SCHEMA, ResponseBook
from tests.conftest import null_tables

QUANTILE = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("responses") / "run"
    run(parse_config(null_tables()), out)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for name in ("responses", "generations")
        for file in sorted((folder / name).iterdir())
    } | {"survivors.parquet": (folder / "survivors.parquet").read_bytes()}


def metrics_by_hand(path: Path, n: int) -> dict[str, dict[str, Any]]:
    """The metrics of each prompt that was drawn in full, and its best and worst response."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for row in pl.read_parquet(path).iter_rows(named=True):
        prompts.setdefault(row["prompt_id"], []).append(row)
    found = {}
    for prompt, rows in prompts.items():
        scored = [row for row in rows if row["reward"] is not None]
        if len(rows) < n or len(scored) < 2:
            continue
        rewards = np.array([row["reward"] for row in scored])
        best, worst = scored[int(rewards.argmax())], scored[int(rewards.argmin())]
        found[prompt] = {
            "m1": rewards.min(), "m2": worst["length"], "m3": rewards.max() - rewards.min(),
            "chosen": best["response"], "rejected": worst["response"], "chosen_reward": rewards.max(),
            "chosen_truncated": best["truncated"], "rejected_truncated": worst["truncated"],
        }  # fmt: skip
    return found


def check_survivors(folder: Path, n: int, quantile: float) -> int:
    """Compares survivors.parquet with what plain NumPy makes of the responses; returns how many there are."""
    pool = metrics_by_hand(folder / "responses" / "0000.parquet", n)
    m1, m2, m3 = (np.array([prompt[name] for prompt in pool.values()]) for name in ("m1", "m2", "m3"))
    cuts = np.quantile(m1, quantile), np.quantile(m2, quantile), np.quantile(m3, 1 - quantile)
    expected = []
    for file in sorted((folder / "responses").glob("[0-9]*.parquet")):
        expected += [
            (prompt, int(file.stem), *kept.values())
            for prompt, kept in metrics_by_hand(file, n).items()
            if kept["m1"] >= cuts[0] and kept["m2"] >= cuts[1] and kept["m3"] <= cuts[2]
        ]
    survivors = pl.read_parquet(folder / "survivors.parquet").select(
        "prompt_id", "generation", "rejected_reward", "rejected_length", "reward_gap", "chosen", "rejected",
        "chosen_reward", "chosen_truncated", "rejected_truncated",
    )  # fmt: skip
    assert survivors.rows() == expected
    return len(expected)


def test_plain_numpy_makes_the_survivors_of_the_responses(folder: Path) -> None:
    assert check_survivors(folder, 4, QUANTILE) > 10


@pytest.mark.embedded
@pytest.mark.slow
def test_plain_numpy_and_a_filter_make_the_survivors_of_the_demo(
    tmp_path: Path, smollm2: Path, minilm_folder: Path
) -> None:
    """The demo with one generation in place of two, which takes half the time."""
    tables = tomllib.loads(files("fittest.runs.config").joinpath("demo.toml").read_text(encoding="utf-8"))
    tables["run"]["generations"] = 1
    demo = tmp_path / "demo-run"
    config = parse_config(tables)
    run(config, demo)
    assert check_survivors(demo, config.engine.sampling.n, config.selection.quantile) > 0

    again = fittest.filter(demo, tmp_path / "again").survivors
    of_pool = pl.read_parquet(demo / "survivors.parquet").filter(pl.col("generation") == 0)
    further = ("in_population", "draws", "draws_passed", "keep_share", "keep_probability")
    assert again.drop(further, strict=False).equals(of_pool.drop(further, strict=False))
    assert again["licence"].null_count() == 0


def test_every_response_is_there_in_order_and_typed(folder: Path) -> None:
    for number in range(3):
        table = pl.read_parquet(folder / "responses" / f"{number:04d}.parquet")
        births = pl.read_parquet(folder / "generations" / f"{number:04d}.parquet").filter(pl.col("gate").is_null())
        assert table.schema == pl.Schema(RESPONSE_SCHEMA)
        drawn = [(row[0], sample) for row in births.select("prompt_id", "n_drawn").rows() for sample in range(row[1])]
        assert table.select("prompt_id", "sample").rows() == drawn
        assert table["length"].equals(table["response"].str.len_chars().cast(pl.Int64))
        assert set(table["reward_id"]) == set(table["engine"]) == {"null:1"}
        assert table["truncated"].equals((table["finish_reason"] == "length").alias("truncated"))
        assert table["completion_tokens"].equals((table["response"].str.count_matches(" ") + 1).cast(pl.Int64))
    assert table["truncated"].any()


def test_responses_leave_memory_but_for_a_judge_that_is_trained(folder: Path, tmp_path: Path) -> None:
    result = run(parse_config(null_tables(run={"generations": 1})), tmp_path / "run")
    assert result.evolution is not None
    prompts = [prompt for generation in result.evolution.state.finished for prompt in generation.candidates]
    assert sum(prompt.n_drawn for prompt in prompts) > 100
    assert not any(prompt.responses for prompt in prompts)


@pytest.mark.parametrize("sections", [{}, {"run": {"mode": "steady-state"}}, {"selection": {"pilot": 0.4}}])
def test_tables_that_do_not_fit_into_memory_hold_the_same(
    sections: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(null_tables(**sections))
    run(config, tmp_path / "small")
    monkeypatch.setattr(module, "_CHARACTERS_IN_MEMORY", 1500)
    run(config, tmp_path / "large")
    for number in range(3):
        name = f"responses/{number:04d}.parquet"
        small, large = tmp_path / "small" / name, tmp_path / "large" / name
        if sections.get("run") is None:
            assert pl.read_parquet(large).equals(pl.read_parquet(small))
        assert pl.read_parquet(large).height > 20
    assert not list((tmp_path / "large").glob(".responses-*"))
    assert sorted(path.name for path in (tmp_path / "large" / "responses").iterdir()) == [
        *(f"000{number}.parquet" for number in range(3)),
        "retest.parquet",
    ]


@pytest.mark.parametrize("characters", [1500, 2**21])
def test_killed_between_responses_and_generations_the_set_is_whole_after_a_resume(
    characters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHARACTERS_IN_MEMORY", characters)
    config = parse_config(null_tables())
    run(config, tmp_path / "whole")
    write = store.write_parquet

    def die(path: Path, frame: pl.DataFrame, **options: Any) -> None:
        if path.name == "0001.parquet":
            raise FittestError("the lights went out")
        write(path, frame, **options)

    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_parquet", die)
        with pytest.raises(FittestError, match="lights"):
            run(config, killed)
    assert (killed / "responses" / "0001.parquet").is_file()
    assert not (killed / "generations" / "0001.parquet").exists()
    (killed / ".responses-0").mkdir()
    (killed / ".responses-0" / "0000-000000.parquet").write_text("a part of the session that was killed")

    run(config, killed, resume=True)
    assert files_of(killed) == files_of(tmp_path / "whole")
    assert not list(killed.glob(".responses-*/*"))


def test_a_run_that_stops_in_a_generation_leaves_no_parts_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHARACTERS_IN_MEMORY", 1500)
    config = parse_config(null_tables(budget={"max_requests": 100}))
    result = run(config, tmp_path / "run")
    assert result.summary["stop_reason"] == "max_requests"
    assert list((tmp_path / "run").glob(".responses-*/*"))
    del result
    gc.collect()
    assert not list((tmp_path / "run").glob(".responses-*"))


def test_a_run_of_an_early_fittest_gets_its_responses_when_it_goes_on(folder: Path, tmp_path: Path) -> None:
    early = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(early / "responses")
    (early / "summary.json").unlink()
    run(parse_config(null_tables()), early, resume=True)
    assert files_of(early) == files_of(folder)


def test_what_was_not_answered_or_not_scored_is_null(tmp_path: Path) -> None:
    book = ResponseBook(tmp_path / "responses", engine="model:1", length_unit=lambda text: len(text.split()))
    prompt = Prompt("Why?", Birth(operator="pool", generation=0, slot=0))
    prompt.responses = [
        Response(0, None, None, "timed out"),
        Response(1, "", -1.5, None, False, "so be it", "stop", 5, 0),
        Response(2, "because it is", None, "reward is NaN", True, None, "length", 5, 3),
    ]
    book.take(prompt, reward_id="judge:1")
    book.seal(0)
    table = pl.read_parquet(tmp_path / "responses" / "0000.parquet")
    assert table.schema == pl.Schema(RESPONSE_SCHEMA)
    assert table.drop("prompt_id", "reward_id", "engine").rows() == [
        (0, None, None, None, None, None, False, 0, 0),
        (1, "", "so be it", -1.5, 0, "stop", False, 5, 0),
        (2, "because it is", None, None, 3, "length", True, 5, 3),
    ]


def test_a_generation_without_a_response_has_an_empty_table_of_the_same_types(tmp_path: Path) -> None:
    book = ResponseBook(tmp_path / "responses", engine="model:1", length_unit=len)
    book.seal(3)
    assert pl.read_parquet(tmp_path / "responses" / "0003.parquet").schema == pl.Schema(RESPONSE_SCHEMA)


def test_a_large_table_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    texts = [
        [hashlib.sha256(f"{number} {place}".encode()).hexdigest() for place in range(4000)] for number in range(8)
    ]
    pieces = (pl.DataFrame({"text": piece}) for piece in texts)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(FittestError, match=r"cannot write .*table\.parquet"):
            write_parquet_in_pieces(
                tmp_path / "table.parquet", pieces, schema={"text": pl.String}, row_group_size=4000
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, was)
    assert not list(tmp_path.iterdir())
