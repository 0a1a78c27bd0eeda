"""The whole loop over HTTP against servers as most people have them, with the real embedded model behind each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("aiohttp")

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.runs import parse_config, run
from fittest.runs.models import local_path
from tests.http_engine import (
    Answer,
    HttpEngine,
    chat_only,
    loaded,
    needs_extra_body,
    thinks_apart,
    thinks_in_text,
    through,
)

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

THOUGHT = "The user wants something. I shall be short."
OFFSPRING = 12


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCpp]:
    pytest.importorskip("xllamacpp")
    with loaded(local_path("smollm2-135m"), slots=8, context=1024) as embedded:
        yield embedded


def tables(url: str, **engine: Any) -> dict[str, Any]:
    return {
        "run": {"generations": 1},
        "pool": {"path": "builtin:starter", "limit": 10},
        "engine": {
            "kind": "openai",
            "base_url": url,
            "model": "smollm2-135m",
            "slots": 8,
            "sampling": {"n": 2, "max_tokens": 32},
            **engine,
        },
        "reward": {"kind": "null"},
        "selection": {"quantile": 0.3, "race_round": 0},
        "operators": {"offspring": OFFSPRING, "shots": 4},
        "diversity": {"embedder": "hash"},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapped", "engine"),
    [
        (chat_only, {}),
        (needs_extra_body, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}),
        (lambda answer: chat_only(thinks_in_text(answer, THOUGHT)), {}),
        (lambda answer: chat_only(thinks_apart(answer, THOUGHT)), {}),
    ],
    ids=["chat only", "needs extra_body", "thinks in its text", "thinks apart"],
)
def test_the_whole_loop_runs_on_a_server_that(
    wrapped: Callable[[Answer], Answer], engine: dict[str, Any], model: LlamaCpp, tmp_path: Path
) -> None:
    with HttpEngine(answer=wrapped(through(model))) as server:
        result = run(parse_config(tables(server.url, **engine)), tmp_path / "run")
    assert result.summary["stop_reason"] == "generations"
    assert result.summary["failures"] == {}
    assert result.summary["survivors"] > 0
    offspring = pl.read_parquet(tmp_path / "run" / "generations" / "0001.parquet")
    passed = offspring.filter(pl.col("gate").is_null())
    assert offspring.height == OFFSPRING
    assert passed.height >= OFFSPRING // 4, offspring.select("gate", "gate_reason", "prompt").rows()

    responses = pl.read_parquet(tmp_path / "run" / "responses")
    thinks = engine == {} and responses["reasoning"].is_not_null().any()
    assert thinks == (wrapped is not chat_only and engine == {})
    if thinks:
        assert set(responses["reasoning"]) == {THOUGHT}
    for file in (tmp_path / "run").rglob("*.parquet"):
        frame = pl.read_parquet(file)
        for name in frame.columns:
            if frame[name].dtype == pl.String and name != "reasoning":
                assert not frame[name].str.contains("think>|I shall be short").any(), (file, name)
    assert "think>" not in (tmp_path / "run" / "pairs.jsonl").read_text()
    assert (responses["length"] == responses["response"].str.len_chars()).all()
    assert json.loads((tmp_path / "run" / "spending.json").read_text())["total"]["completion_tokens"] > 0
