"""A hostile pool is a pool: it is stored as it was, exported as it was, and nothing obeys it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import polars as pl
import pytest
import tomli_w

from fittest.runs.output.exporters import EXPORTERS
from tests.attacks.confined import MOST_MIB, Ended, fittest
from tests.attacks.hostile_pools import POOLS, write_pool
from tests.conftest import null_tables
from tests.runs.output.test_markdown import structure

LONG = {"sizes", "marks"}
EVIL_NAME = "po\x1b[2Jol\u202e\n[red]# x[bold] <b>.jsonl"


def raw(printed: str) -> set[str]:
    """What a terminal would obey in a text."""
    return {sign for sign in printed if sign != "\n" and unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}


def harmless(done: Ended, status: int = 0) -> None:
    assert done.status == status, done.stderr[-2000:]
    assert not done.traceback
    # joiners inside the words of a language are signs
    assert raw(done.stdout + done.stderr) <= {"\u200c", "\u200d"}
    assert done.peak_mib < MOST_MIB


def whole(folder: Path, prompts: list[str]) -> Path:
    """Runs a pool through the command line, and everything that reads the run after it."""
    pool, run = write_pool(folder / EVIL_NAME, prompts), folder / "run"
    gates = {"min_chars": 1, "max_chars": 2_000_000, "languages": [], "keywords": []}
    tables = null_tables(
        run={"generations": 1},
        pool={"path": str(pool), "limit": 0},
        gates=gates,
        operators={"offspring": 8},
    )
    config = folder / "config.toml"
    config.write_text(tomli_w.dumps(tables), encoding="utf-8")
    harmless(fittest("check", config))
    harmless(fittest("run", config, "--out", run, seconds=300))
    harmless(fittest("status", run))
    return run


def stored(run: Path) -> list[str]:
    return pl.read_parquet(run / "generations" / "0000.parquet")["prompt"].to_list()


def headings(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("#")]


def exported(run: Path, to: str, out: Path) -> list[object]:
    harmless(fittest("export", run, "--to", to, "--out", out))
    if out.suffix == ".parquet":
        return list(pl.read_parquet(out, glob=False).iter_rows())
    # a line of JSON ends at a line feed and nowhere else
    return [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.slow
def test_all_hostile_prompts_together_are_a_pool(tmp_path: Path) -> None:
    prompts = [prompt for name, pool in POOLS.items() if name not in LONG for prompt in pool[:12]]
    run = whole(tmp_path, prompts)
    assert stored(run) == prompts
    survivors = pl.read_parquet(run / "survivors.parquet")
    assert survivors.height > 20
    assert exported(run, "trl-preference", tmp_path / "pairs.jsonl")
    card = (run / "card.md").read_text(encoding="utf-8")
    assert [line.partition(":")[0] for line in headings(card)] == [
        "# Data card",
        "## How it was made",
        "## Licences",
        "## Sources",
        "## Generations",
        "## Operators",
        "## Lineage",
        "## What it may be used for",
    ]
    assert not raw(card)
    assert not raw((run / "summary.json").read_text(encoding="utf-8"))
    assert not {"link_open a", "html_inline", "html_block", "image img"} & set(structure(card))


@pytest.mark.attack
@pytest.mark.parametrize("long", [False, True], ids=["ordinary", "long"])
def test_a_hostile_pool_goes_the_whole_way(long: bool, tmp_path: Path) -> None:
    prompts = [prompt for name, pool in POOLS.items() if (name in LONG) == long for prompt in pool]
    run = whole(tmp_path, prompts)
    assert stored(run) == prompts
    survivors = pl.read_parquet(run / "survivors.parquet")
    own = set(prompts)
    assert set(survivors.filter(pl.col("operator") == "pool")["prompt"]) <= own
    for to in EXPORTERS.built_in:
        if to in {"kto", "reward-pairs", "trl-preference", "trl-sft", "prompts", "responses", "grpo"}:
            assert exported(run, to, tmp_path / f"{to}.jsonl")
        assert exported(run, to, tmp_path / f"{to}.parquet")
    harmless(fittest("filter", run, "--out", tmp_path / "filtered"))
    harmless(fittest("ablate", run, "--out", tmp_path / "ablated"))
    for card in tmp_path.rglob("*card.md"):
        text = card.read_text(encoding="utf-8")
        assert not raw(text)
        assert not {"link_open a", "html_inline", "html_block", "image img"} & set(structure(text))
        assert len(headings(text)) == 8
