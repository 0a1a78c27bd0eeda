"""A run that ends well says so; one that ends empty, or that selected nothing, says that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner

from fittest.evo.errors import NoSurvivorWarning
from fittest.evo.records import Missing
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from tests.conftest import null_tables


def fittest(tables: dict[str, Any], folder: Path, *more: str) -> Any:
    (folder / "run.toml").write_text(tomli_w.dumps(tables))
    return CliRunner().invoke(main, ["run", str(folder / "run.toml"), "--out", str(folder / "out"), *more])


def test_a_run_without_a_survivor_ends_with_status_3_and_does_so_again_when_resumed(tmp_path: Path) -> None:
    absolute = {"policy": "absolute", "min_reward": 1e6}
    tables = null_tables(selection=absolute, run={"generations": 1})
    del tables["selection"]["quantile"]
    result = fittest(tables, tmp_path)
    assert result.exit_code == 3, result.output
    assert "ended without a survivor" in result.output
    again = fittest(tables, tmp_path, "--resume")
    assert again.exit_code == 3
    assert "finished; nothing was changed" in again.output
    with pytest.warns(NoSurvivorWarning, match="without a survivor"):
        assert run(parse_config(tables), tmp_path / "python").summary["survivors"] == 0


def test_a_run_without_any_reward_ends_with_status_3(tmp_path: Path) -> None:
    def no_reward(prompts: Any, responses: Any) -> list[Missing]:
        return [Missing("out of order")] * len(responses)

    with pytest.warns(NoSurvivorWarning):
        summary = run(parse_config(null_tables()), tmp_path / "run", reward=no_reward).summary
    assert any("no response got a reward" in warning for warning in summary["warnings"])
    result = CliRunner().invoke(main, ["run", str(tmp_path / "run"), "--resume"])
    assert result.exit_code == 3


def test_proposals_that_all_fail_alike_are_named_with_gate_and_reason(tmp_path: Path) -> None:
    def same(parent: Any, exemplars: Any, rng: Any) -> str:
        return "no"

    tables = null_tables(operators={"mix": {"same": 1.0}}, run={"generations": 1})
    summary = run(parse_config(tables), tmp_path / "run", operators={"same": same}).summary
    offspring = tables["operators"]["offspring"]
    assert any(
        warning.startswith(f"generation 1: all {offspring} proposals failed alike, at gate length: ")
        for warning in summary["warnings"]
    )


def test_gates_that_eat_a_generation_are_named_with_their_shares(tmp_path: Path) -> None:
    def mostly_copies(parent: Any, exemplars: Any, rng: Any) -> str:
        return "too few" if rng.random() < 0.5 else parent.text

    tables = null_tables(operators={"mix": {"mostly_copies": 1.0}}, run={"generations": 1})
    summary = run(parse_config(tables), tmp_path / "run", operators={"mostly_copies": mostly_copies}).summary
    (warning,) = [warning for warning in summary["warnings"] if "gates turned away" in warning]
    offspring = tables["operators"]["offspring"]
    assert f"generation 1: gates turned away {offspring} of {offspring} proposals (" in warning
    assert "length " in warning
    assert "exact " in warning


def test_a_cut_that_no_prompt_of_the_pool_fails_is_named(tmp_path: Path) -> None:
    def all_alike(prompts: Any, responses: Any) -> list[float]:
        return [1.0] * len(responses)

    summary = run(parse_config(null_tables()), tmp_path / "run", reward=all_alike).summary
    named = [warning for warning in summary["warnings"] if "cuts nothing" in warning]
    assert [warning.split(" cuts nothing")[0] for warning in named] == ["the cut on m1", "the cut on m3"]
    usual = run(parse_config(null_tables()), tmp_path / "usual").summary
    assert not [warning for warning in usual["warnings"] if "cuts nothing" in warning]
