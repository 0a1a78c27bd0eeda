"""spending.json adds up, and the caps of a run stop it within one round, to be gone on with."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fittest.evo.backends.null import Null
from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from tests.conftest import null_tables

SLOTS = null_tables()["engine"]["slots"]
CALLS = {"judge": {"reward": {"kind": "judge", "votes": 2}}, "null reward": {}}


def spending(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "spending.json").read_text()))


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def replies(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        (count,) = journal.execute("SELECT count(*) FROM replies").fetchone()
    return int(count)


@pytest.mark.parametrize("kind", CALLS)
def test_every_token_is_on_some_operators_account_once(kind: str, tmp_path: Path) -> None:
    run(parse_config(null_tables(**CALLS[kind])), tmp_path)
    books, counted = spending(tmp_path), summary(tmp_path)
    rows, total = books["operators"], books["total"]
    assert {(row["generation"], row["operator"]) for row in rows} >= {(0, "pool"), (1, "self_rip"), (2, "self_rip")}
    for name in ("requests", "prompt_tokens", "completion_tokens", "tokens_gated", "tokens_rejected"):
        assert sum(row[name] for row in rows) == total[name]
    assert total["prompt_tokens"] == counted["prompt_tokens"]
    assert total["completion_tokens"] == counted["completion_tokens"]
    assert total["requests"] == replies(tmp_path)
    assert sum(row["candidates"] for row in rows) == counted["candidates"]
    assert sum(row["survived"] for row in rows) == counted["survivors"]
    for row in rows:
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        assert row["tokens_proposing"] + row["tokens_answering"] + row["tokens_judging"] == tokens
        assert (row["tokens_judging"] > 0) == (kind == "judge")
        assert (row["tokens_proposing"] > 0) == (row["operator"] not in ("pool", "retest"))
        assert row["tokens_gated"] + row["tokens_rejected"] <= tokens


def test_a_resumed_run_keeps_the_same_books(tmp_path: Path) -> None:
    run(parse_config(null_tables()), tmp_path / "whole")
    capped = null_tables(budget={"max_requests": 150})
    run(parse_config(capped), tmp_path / "resumed")
    assert summary(tmp_path / "resumed")["stop_reason"] == "max_requests"
    run(parse_config(null_tables()), tmp_path / "resumed", resume=True)
    books = [
        [
            {name: value for name, value in row.items() if name != "slot_seconds"}
            for row in spending(folder)["operators"]
        ]
        for folder in (tmp_path / "whole", tmp_path / "resumed")
    ]
    assert books[0] == books[1]


def test_a_session_that_ends_early_under_a_raised_cap_leaves_a_run_that_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(parse_config(null_tables(budget={"max_tokens": 3000})), tmp_path)

    async def fails(self: Null) -> Null:
        raise FittestError("the engine cannot be loaded")

    with monkeypatch.context() as broken:
        broken.setattr(Null, "__aenter__", fails)
        with pytest.raises(FittestError, match="cannot be loaded"):
            run(parse_config(null_tables(budget={"max_tokens": 6000})), tmp_path, resume=True)
    result = run(parse_config(null_tables(budget={"max_tokens": 6000})), tmp_path, resume=True)
    assert result.evolution is not None
    assert result.summary["prompt_tokens"] + result.summary["completion_tokens"] >= 6000


def test_the_request_cap_is_kept_to_the_request_over_all_sessions(tmp_path: Path) -> None:
    for cap in (40, 40, 90):
        run(parse_config(null_tables(budget={"max_requests": cap})), tmp_path, resume=True)
        assert summary(tmp_path)["stop_reason"] == "max_requests"
        assert replies(tmp_path) == cap


@pytest.mark.parametrize(
    ("cap", "prices"),
    [
        ({"max_tokens": 3000}, {}),
        ({"max_cost": 0.003}, {"prompt_tokens": 1.0, "completion_tokens": 1.0}),
    ],
)
def test_caps_on_tokens_and_money_stop_within_a_round_and_the_run_goes_on(
    cap: dict[str, float], prices: dict[str, float], tmp_path: Path
) -> None:
    result = run(parse_config(null_tables(budget=cap, prices=prices)), tmp_path)
    (name,) = cap
    assert result.summary["stop_reason"] == name
    tokens = result.summary["prompt_tokens"] + result.summary["completion_tokens"]
    dearest = 160
    assert 3000 <= tokens <= 3000 + SLOTS * dearest
    finished = run(parse_config(null_tables(prices=prices)), tmp_path, resume=True)
    assert finished.summary["stop_reason"] == "generations"


def test_a_cap_on_seconds_stops_a_slow_engine(tmp_path: Path) -> None:
    result = run(parse_config(null_tables(engine={"latency": 0.05}, budget={"max_seconds": 0.5})), tmp_path)
    assert result.summary["stop_reason"] == "max_seconds"
    assert 0.5 <= result.summary["wall_seconds"] < 5.0


def test_the_rent_of_the_engine_counts_as_cost(tmp_path: Path) -> None:
    tables = null_tables(engine={"latency": 0.05}, prices={"engine_hour": 3600.0}, budget={"max_cost": 0.5})
    result = run(parse_config(tables), tmp_path)
    assert result.summary["stop_reason"] == "max_cost"
    assert spending(tmp_path)["total"]["cost"] == pytest.approx(result.summary["wall_seconds"], rel=0.2)


def test_without_prices_nothing_is_said_of_cost_and_it_cannot_be_capped(tmp_path: Path) -> None:
    run(parse_config(null_tables(run={"generations": 0})), tmp_path)
    assert spending(tmp_path)["total"]["cost"] is None
    with pytest.raises(FittestError, match=r"budget\.max_cost needs \[prices\]"):
        parse_config(null_tables(budget={"max_cost": 1.0}))
