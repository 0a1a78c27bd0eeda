"""A plan predicts what the run then costs, keeps nothing, and names the cap that will end it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.preflight.plan import plan
from tests.conftest import null_tables
from tests.http_engine import HttpEngine, all_samples

UNRACED = {"selection": {"quantile": 0.3, "race_round": 0}}


def planned(folder: Path, **sections: dict[str, Any]) -> Result:
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(null_tables(**sections)))
    return CliRunner().invoke(main, ["plan", str(path)])


@pytest.mark.parametrize("reward", [{"kind": "null"}, {"kind": "judge", "votes": 3}])
def test_the_run_costs_about_what_was_planned(reward: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(null_tables(reward=reward, engine={"latency": 0.005}, **UNRACED))
    made = plan(config)
    spent = run(config, tmp_path / "run").summary
    expected = made.expected
    assert expected.total.requests == pytest.approx(made.most.total.requests, rel=0.5)
    tokens = spent["prompt_tokens"] + spent["completion_tokens"]
    assert expected.total.tokens == pytest.approx(tokens, rel=0.35)
    assert made.most.total.tokens >= expected.total.tokens
    answers = sum(line.total.requests for name, line in made.lines.items() if name.startswith("answers"))
    assert answers == pytest.approx(spent["rollouts"], rel=0.2)
    assert made.probe.spent.total.tokens < tokens


def test_the_pool_is_counted_exactly() -> None:
    """Gates that need no model are asked about all of it."""
    config = parse_config(null_tables(run={"generations": 0}, pool={"limit": 0}, **UNRACED))
    made = plan(config)
    assert list(made.lines) == ["answers to 78 prompts of the pool"]
    assert made.expected.total.requests == made.most.total.requests == 78 * 4


def test_a_judge_is_planned_with_all_its_votes() -> None:
    config = parse_config(null_tables(reward={"kind": "judge", "votes": 7}, **UNRACED))
    made = plan(config)
    answers = sum(line.total.requests for name, line in made.lines.items() if name.startswith("answers"))
    assert made.lines["judgments of answers"].total.requests == 7 * answers


def test_a_run_with_a_judge_of_its_own_is_planned() -> None:
    """The judge's table is not the probe's, which has no such reward."""
    config = parse_config(null_tables(reward={"kind": "pairwise"}, judge={"model": "smollm2-135m"}, **UNRACED))
    lines = plan(config).lines
    answers = sum(line.total.requests for name, line in lines.items() if name.startswith("answers"))
    assert lines["reference answers"].total.requests == pytest.approx(answers / 4, abs=1)
    assert "judgments of answers" not in lines


def test_an_engine_that_compares_answers_is_planned_with_both_orders_and_the_references(tmp_path: Path) -> None:
    config = parse_config(null_tables(reward={"kind": "pairwise", "votes": 5}, **UNRACED))
    lines = plan(config).lines
    answers = sum(line.total.requests for name, line in lines.items() if name.startswith("answers"))
    assert lines["judgments of answers"].total.requests == pytest.approx(answers * 2 * 5, rel=0.01)
    assert lines["reference answers"].total.requests == pytest.approx(answers / 4, abs=1)
    run(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "spending.json").read_text())["operators"]
    judging = lines["judgments of answers"].total.tokens + lines["reference answers"].total.tokens
    assert judging == pytest.approx(sum(row["tokens_judging"] for row in rows), rel=0.35)


@pytest.mark.parametrize(("n", "together", "race_round", "reads"), [(8, 8, 0, 1), (8, 4, 2, 2), (8, 1, 0, 8)])
def test_a_prompt_is_planned_to_be_read_as_often_as_the_run_reads_it(
    server: HttpEngine, tmp_path: Path, n: int, together: int, race_round: int, reads: int
) -> None:
    """The pool is raced by no cuts, whatever the rounds."""
    server.answer = all_samples
    engine = {
        "kind": "openai", "model": "m", "base_url": [server.url], "samples_per_request": together,
        "sampling": {"n": n, "max_tokens": 60},
    }  # fmt: skip
    selection = {"race_round": race_round, "retest": 0.0}
    config = parse_config(null_tables(engine=engine, run={"generations": 0}, selection=selection))
    expected = plan(config).expected.total
    prompts = expected.requests / n
    assert expected.prompt_tokens == pytest.approx(run(config, tmp_path / "run").summary["prompt_tokens"], rel=0.2)
    assert server.asked[-1].body["n"] == together
    assert expected.prompt_tokens == pytest.approx(prompts * reads * 10, rel=0.2)


def test_what_is_not_counted_and_what_may_end_the_run_is_said(tmp_path: Path) -> None:
    result = planned(
        tmp_path,
        reward={"kind": "pairwise"},
        judge={"model": "smollm2-135m", "retrain_every": 1},
        budget={"target_survivors": 9},
    )
    assert "the engine does not wait for, training of the judge" in result.output
    assert "budget.target_survivors may end the run earlier, with 9 survivors" in result.output


def test_the_table_adds_up_and_money_is_shown_where_there_are_prices(tmp_path: Path) -> None:
    result = planned(tmp_path, prices={"prompt_tokens": 1.0, "completion_tokens": 2.0})
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.startswith(("answers", "proposals", "expected"))]
    costs = [float(row.split()[-1]) for row in rows]
    assert costs[-1] == pytest.approx(sum(costs[:-1]), rel=1e-3)
    assert "cost" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["run.toml"]


def test_without_prices_it_says_so_and_the_cap_that_ends_the_run_is_named(tmp_path: Path) -> None:
    result = planned(tmp_path, budget={"max_tokens": 1000, "max_requests": 10**9})
    assert "no cost: [prices] is empty" in result.output
    assert "budget.max_tokens ends the run after about" in result.output
    assert "max_requests" not in result.output


def test_an_engine_that_answers_nothing_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "recorded.jsonl").write_text('{"prompt": "another prompt than those of the pool", "response": "x"}\n')
    result = planned(tmp_path, engine={"kind": "replay", "path": str(tmp_path / "recorded.jsonl")})
    assert result.exit_code == 2
    assert "the probe of" in result.output
    assert "replay: prompt is not in the recording" in result.output


def test_a_pool_that_no_gate_lets_in_is_named() -> None:
    with pytest.raises(FittestError, match="no prompt of the pool passes the gates"):
        plan(parse_config(null_tables(gates={"min_chars": 3999})))


def test_a_probe_that_lost_answers_says_so(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text(
        "".join(f'{{"prompt": "What is the colour of the number {n}?"}}\n' for n in range(6))
    )
    (tmp_path / "r.jsonl").write_text('{"prompt": "What is the colour of the number 1?", "response": "A line."}\n')
    made = planned(
        tmp_path,
        pool={"path": "pool.jsonl", "limit": 0},
        engine={"kind": "replay", "path": "r.jsonl"},
        **UNRACED,
    )
    assert made.exit_code == 0, made.output
    lines = [line for line in made.output.splitlines() if line.startswith("warning: ")]
    assert sum(int(line.split()[1]) for line in lines) == 7
    assert all("of 8 answers of the probe are missing (" in line for line in lines)
