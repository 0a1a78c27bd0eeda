"""The Python side: one's own reward, operator and DEAP functions, as the README shows them."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from deap import base

import fittest
from fittest import runs
from fittest.evo import FittestError, Missing, Prompt, Proposal
from fittest.runs import Config, parse_config, run
from fittest.runs.cli import main
from tests.conftest import null_tables

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_script_in_the_readme_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "survivors" in done.stdout


def test_a_reward_function_decides(null_config: Config, tmp_path: Path) -> None:
    def short_is_good(prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return [None if "coffee" in response else -float(len(response)) for response in responses]

    result = run(null_config, tmp_path / "run", reward=short_is_good)
    survivors = result.survivors
    assert survivors.height
    assert (survivors["rejected_reward"] == -survivors["rejected_length"].cast(float)).all()
    assert result.summary["failures"].keys() == {"reward is null"}


def test_an_async_reward_function_is_awaited(null_config: Config, tmp_path: Path) -> None:
    async def constant(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [1.0] * len(responses)

    assert run(null_config, tmp_path / "run", reward=constant).survivors.height


def test_unusable_rewards_are_missing_with_a_reason(null_config: Config, tmp_path: Path) -> None:
    def broken(prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing | None]:
        kinds = [0.5, float("nan"), float("inf"), None, Missing("pair longer than 4 tokens"), 0.25]
        return [kinds[len(response) % len(kinds)] for response in responses]

    summary = run(null_config, tmp_path / "run", reward=broken).summary
    assert set(summary["failures"]) == {
        "reward is NaN",
        "reward is infinite",
        "reward is null",
        "pair longer than 4 tokens",
    }


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts, responses: 1 / 0, "raised ZeroDivisionError"),
        (lambda prompts, responses: [0.5], "gave 1 scores for"),
    ],
)
def test_a_reward_that_fails_is_named_and_the_run_resumes(
    function: object, message: str, null_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(FittestError, match=message) as caught:
        run(null_config, tmp_path / "run", reward=function)  # type: ignore[arg-type]
    assert "--resume" in str(caught.value)


def test_an_operator_of_ones_own_takes_its_place_in_the_mix(tmp_path: Path) -> None:
    def shout(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        return f"Explain in {rng.integers(100, 999)} words what this asks for and why: {parent.text}"

    async def ask(exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        return Proposal("ask", prompt="Write a task.\n", stop=("\n",))

    config = parse_config(null_tables(operators={"mix": {"shout": 0.5, "ask": 0.5}}, gates={"rouge_l": 1.0}))
    evolution = run(config, tmp_path / "run", operators={"shout": shout, "ask": ask}).evolution
    assert evolution is not None
    births = [prompt.birth for generation in evolution.state.finished[1:] for prompt in generation.candidates]
    assert {(birth.operator, len(birth.parents), birth.template) for birth in births} == {
        ("shout", 1, None),
        ("ask", 0, "ask"),
    }


def test_the_toolbox_speaks_deap(null_config: Config, tmp_path: Path) -> None:
    mapped = []

    def evaluate(individual: Prompt) -> tuple[float, float, float]:
        return len(individual.text), len(individual.text) * 2, 0.1

    def customise(toolbox: base.Toolbox) -> None:
        toolbox.register("evaluate", evaluate)
        toolbox.register("map", lambda function, individuals: [mapped.append(i) or function(i) for i in individuals])
        toolbox.register("mutate", lambda parent, exemplars, rng: parent.text + " Say why it matters to you today.")

    result = run(null_config, tmp_path / "run", customise=customise)
    assert result.summary["rollouts"] == 0
    assert mapped
    survivors = result.survivors
    assert survivors.height
    assert (survivors["rejected_reward"] == survivors["prompt"].str.len_chars()).all()


def test_statistics_logbook_and_front_are_deaps(null_config: Config, tmp_path: Path) -> None:
    evolution = run(null_config, tmp_path / "run").evolution
    assert evolution is not None
    assert evolution.logbook.select("generation") == [0, 1, 2]
    assert len(evolution.pareto_front) > 0
    assert all(individual.fitness.valid for individual in evolution.pareto_front)
    assert "mean_diversity" in str(evolution.logbook)
    # a figure that the table's schema does not name would be dropped in silence
    assert set(evolution.logbook[0]) == set(pl.read_parquet(tmp_path / "run" / "logbook.parquet").columns)


def test_only_individuals_with_all_values_get_a_fitness(null_config: Config, tmp_path: Path) -> None:
    def mostly_missing(prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return [0.5 if len(prompts[0]) % 2 else None for _ in responses]

    evolution = run(null_config, tmp_path / "run", reward=mostly_missing).evolution
    assert evolution is not None
    pool = [prompt for prompt in evolution.state.finished[0].candidates if prompt.gate is None]
    assert {prompt.fitness.valid for prompt in pool} == {True, False}
    assert all(prompt.fitness.valid == (prompt.metrics is not None) for prompt in pool)


def test_runs_overlap_in_one_event_loop_and_leave_the_process_as_it_was(tmp_path: Path) -> None:
    settings = [null_tables(engine={"latency": 0.001, "slots": slots}) for slots in (3, 8)]
    before = gc.get_threshold()

    async def both() -> list[fittest.Result]:
        with pytest.raises(FittestError, match=r"await fittest\.arun"):
            run(parse_config(settings[0]), tmp_path / "wrong")
        runs = [fittest.arun(parse_config(tables), tmp_path / str(n)) for n, tables in enumerate(settings)]
        return await asyncio.gather(*runs)

    slow, quick = asyncio.run(both())
    assert slow.survivors.equals(quick.survivors)
    assert slow.survivors.equals(run(parse_config(settings[1]), tmp_path / "alone").survivors)
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


def test_a_run_that_is_cancelled_is_resumed(tmp_path: Path) -> None:
    config = parse_config(null_tables(engine={"latency": 0.02}))

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await fittest.arun(config, tmp_path / "run")

    asyncio.run(cancelled())
    assert not (tmp_path / "run" / "generations" / "0002.parquet").exists()
    result = run(config, tmp_path / "run", resume=True)
    assert result.summary["stop_reason"] == "generations"
    assert result.survivors.equals(run(config, tmp_path / "whole").survivors)


def test_filter_from_python_writes_what_the_command_writes(tmp_path: Path) -> None:
    rows = [
        {"q": f"prompt {number}", "a": "word " * (number + sample + 1), "score": (number * 7 + sample * 3) % 10 / 10}
        for number in range(20)
        for sample in range(4)
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "answers.csv")
    cuts = fittest.Cuts(percentiles={"m1": (30, 100)}, at_most={"chosen_length": 90.0})
    columns = fittest.Columns(prompt="q", response="a", rewards={"score": 1.0})
    result = fittest.filter(tmp_path / "answers.csv", tmp_path / "python", columns=columns, cuts=cuts)

    options = [
        "--prompt-column",
        "q",
        "--response-column",
        "a",
        "--reward-column",
        "score",
        "--percentiles",
        "m1=30-100",
    ]
    command = [
        "filter",
        tmp_path / "answers.csv",
        "--out",
        tmp_path / "shell",
        *options,
        "--at-most",
        "chosen_length=90",
    ]
    done = CliRunner().invoke(main, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    assert 0 < result.survivors.height < 20
    assert result.survivors.height + result.rejected.height == 20
    assert result.summary["survivors"] == result.survivors.height
    for name in ("survivors.parquet", "rejected.parquet", "thresholds.json", "summary.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "shell" / name).read_bytes()

    # a reward of another name has other cuts
    with pytest.raises(FittestError, match="column:score"):
        fittest.filter(
            tmp_path / "answers.csv",
            tmp_path / "again",
            columns=columns,
            scoring=fittest.Scoring(reward_id="another"),
            cuts=fittest.Cuts(thresholds=tmp_path / "python" / "thresholds.json"),
        )
    for wrong in (
        {"cuts": fittest.Cuts(percentiles={"m1": (60, 30)})},
        {"by": fittest.By(name="random", keep=(9, 200))},
    ):
        with pytest.raises(FittestError, match="is no range within 0 to 100"):
            fittest.filter(tmp_path / "answers.csv", tmp_path / "again", columns=columns, **wrong)  # type: ignore[arg-type]
    with pytest.raises(FittestError, match="no filter 'magic'"):
        fittest.filter(tmp_path / "answers.csv", tmp_path / "again", columns=columns, by=fittest.By(name="magic"))


def test_the_page_of_public_names_lists_what_each_face_offers() -> None:
    page = (README.parent / "docs" / "api.md").read_text(encoding="utf-8")
    for face in (fittest, fittest.evo, fittest.fitness, fittest.operators, runs):
        _, _, rest = page.partition(f"\n## `{face.__name__}`\n")
        items = re.findall(r"^- (.*?):", rest.partition("\n## ")[0], flags=re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", " ".join(items))) == sorted(face.__all__)


def test_public_names_are_what_they_say_however_often_they_are_asked_for() -> None:
    # a module of the same name would take the function's place once it is imported
    for _ in range(2):
        for face in (fittest, fittest.evo, fittest.fitness, fittest.operators, runs):
            assert all(callable(getattr(face, name)) for name in face.__all__)
