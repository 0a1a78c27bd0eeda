"""Operators that use what is known, in whole runs of both modes: what they are given is what the tables say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deap import base

from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Proposal
from fittest.evo.shares import MatchedShares
from fittest.evo.spending import Spending
from fittest.operators.repair import Repair
from fittest.runs import parse_config, run
from tests.conftest import null_tables
from tests.runs.parts.test_stock import candidates
from tests.runs.test_crash import asked_again
from tests.runs.test_steady_state import results

MODES = ["generational", "steady-state"]
ALL = {"self_rip": 0.2, "mutate": 0.2, "cross": 0.1, "blend": 0.1, "reason": 0.1, "repair": 0.3}


def tables(mode: str = "generational", mix: dict[str, float] = ALL, **sections: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "run": {"seed": 3, "generations": 3, "population": 12, "mode": mode},
        "engine": {"kind": "null", "slots": 8, "sampling": {"n": 6, "max_tokens": 60}},
        "selection": {"quantile": 0.3, "confirm": 1},
        "operators": {"offspring": 24, "shots": 2, "mix": mix},
    }
    return null_tables(**{name: {**usual.get(name, {}), **sections.get(name, {})} for name in {*usual, *sections}})


@pytest.mark.parametrize("mode", MODES)
def test_a_run_repeats_from_its_journal_at_any_speed(mode: str, tmp_path: Path) -> None:
    run(parse_config(tables(mode, engine={"latency": 0.002})), tmp_path / "run")
    replay = {"kind": "replay", "path": str(tmp_path / "run" / "journal.sqlite"), "slots": 2}
    run(parse_config(tables(mode, engine=replay)), tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "run")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_tables_are_lost_is_made_again_and_asks_nothing(mode: str, tmp_path: Path) -> None:
    config, out = parse_config(tables(mode)), tmp_path / "run"
    run(config, out)
    before = results(out)
    for file in [*out.glob("*.parquet"), *out.glob("*.json*"), *(out / "generations").iterdir()]:
        file.unlink()
    run(config, out, resume=True)
    assert results(out) == before
    assert asked_again(out) == 0


def test_every_operator_brings_offspring(tmp_path: Path) -> None:
    run(parse_config(tables()), tmp_path / "run")
    bred = candidates(tmp_path / "run").filter(pl.col("generation") > 0)
    passed = bred.filter(pl.col("gate").is_null())
    assert set(passed["operator"]) == set(ALL)
    repaired = bred.filter(pl.col("operator") == "repair")
    assert all(template.startswith("repair/m") for template in repaired["template"])


class Watched:
    """Repairs, and notes what it is given."""

    mends = True

    def __init__(self) -> None:
        self.given: list[tuple[Prompt, tuple[str, str] | None]] = []

    def __call__(
        self,
        parent: Prompt,
        exemplars: Sequence[Prompt],
        rng: np.random.Generator,
        answers: Sequence[tuple[str, str] | None],
    ) -> Proposal:
        self.given.append((parent, answers[0]))
        return Repair()(parent, exemplars, rng, answers)


def watched(out: Path, **sections: dict[str, Any]) -> Watched:
    operator = Watched()

    def customise(toolbox: base.Toolbox) -> None:
        toolbox.register("repair", operator)

    run(parse_config(tables(**sections)), out, customise=customise)
    return operator


@pytest.mark.parametrize("mode", MODES)
def test_repair_is_given_what_nearly_survived_and_its_answers(mode: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = watched(out, run={"mode": mode}).given
    rows = {row["prompt_id"]: row for row in candidates(out).iter_rows(named=True)}
    responses = pl.concat([pl.read_parquet(file) for file in sorted((out / "responses").glob("[0-9]*.parquet"))])
    unlucky = 0
    assert len(given) > 10
    for parent, answers in given:
        row = rows[parent.id]
        assert not row["survived"]
        assert len(row["failed_metrics"]) == 1 or row["draws_passed"] > 0
        drawn = responses.filter(pl.col("prompt_id") == parent.id).sort("sample")
        fresh = drawn.filter(pl.col("sample") >= 6)
        # a fresh draw that lost its race says too little
        decided = fresh if fresh.height == 6 else drawn.filter(pl.col("sample") < 6)
        unlucky += fresh.height == 6
        assert answers is not None
        for answer, extreme in zip(answers, (decided["reward"].max(), decided["reward"].min()), strict=True):
            assert answer in decided.filter(pl.col("reward") == extreme)["response"].to_list()
    assert unlucky


def test_what_is_shown_again_costs_nothing(tmp_path: Path) -> None:
    watched(tmp_path / "run", operators={"mix": {"repair": 1.0}})
    said = json.loads((tmp_path / "run" / "summary.json").read_text())
    drawn = pl.concat([pl.read_parquet(file) for file in (tmp_path / "run" / "responses").glob("[0-9]*.parquet")])
    assert said["rollouts"] + said["rollouts_confirm"] == drawn.height
    logbook = pl.read_parquet(tmp_path / "run" / "logbook.parquet")
    assert logbook["rollouts"].sum() == said["rollouts"]


def test_in_a_control_arm_repair_breeds_from_what_the_others_breed_from(tmp_path: Path) -> None:
    given = watched(tmp_path / "run", run={"arm": "one-shot"}, operators={"mix": {"repair": 1.0}}).given
    rows = {row["prompt_id"]: row for row in candidates(tmp_path / "run").iter_rows(named=True)}
    assert given
    assert all(rows[parent.id]["survived"] and rows[parent.id]["operator"] == "pool" for parent, _ in given)
    assert all(answers is not None for _, answers in given)


def test_an_evaluate_of_the_users_own_has_no_answers_to_show(tmp_path: Path) -> None:
    operator = Watched()

    def evaluate(individual: Prompt) -> tuple[float, float, float]:
        return (float(len(individual.text) % 7), 10.0, 1.0)

    def customise(toolbox: base.Toolbox) -> None:
        toolbox.register("repair", operator)
        toolbox.register("evaluate", evaluate)

    run(parse_config(tables(mix={"repair": 1.0})), tmp_path / "run", customise=customise)
    assert operator.given
    assert all(answers is None for _, answers in operator.given)


ADAPTED = {"offspring": 24, "shots": 2, "mix": ALL, "adapt": "probability-matching"}


def shares_of(folder: Path) -> pl.DataFrame:
    logbook = pl.read_parquet(folder / "logbook.parquet")
    return logbook.select("generation", *(f"share_{name}" for name in sorted(ALL)))


@pytest.mark.parametrize("arm", ["evolution", "random-few-shot"])
@pytest.mark.parametrize("mode", MODES)
def test_adapted_shares_follow_what_the_accounts_say(mode: str, arm: str, tmp_path: Path) -> None:
    run(parse_config(tables(run={"mode": mode, "arm": arm}, operators=ADAPTED)), tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "spending.json").read_text())["operators"]
    shares = shares_of(tmp_path / "run")
    assert shares.row(0)[1:] == pytest.approx([ALL[name] for name in sorted(ALL)])
    for generation in range(1, 4):
        shown = MatchedShares(ALL)
        for row in rows:
            if 0 < row["generation"] <= generation:
                born = [Prompt(str(number), Birth(row["operator"], 1, 0)) for number in range(row["candidates"])]
                for number, prompt in enumerate(born):
                    prompt.survived = number < row["survived"]
                tokens = sum(row[f"tokens_{what}"] for what in ("proposing", "answering", "judging"))
                born[0].spent.add("rollout", Spending(1, tokens))
                shown.learn(born)
        assert shares.row(generation)[1:] == pytest.approx(shown.probabilities)
    assert shares.row(3)[1:] != shares.row(0)[1:]


@pytest.mark.parametrize("mode", MODES)
def test_an_adapted_run_repeats_from_its_journal(mode: str, tmp_path: Path) -> None:
    engine = {"kind": "null", "slots": 8, "latency": 0.002}
    config = parse_config(tables(mode, operators=ADAPTED, engine=engine))
    run(config, tmp_path / "run")
    replay = {"kind": "replay", "path": str(tmp_path / "run" / "journal.sqlite"), "slots": 2}
    run(parse_config(tables(mode, operators=ADAPTED, engine=replay)), tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "run")
    for file in [*(tmp_path / "run").glob("*.json*"), *(tmp_path / "run" / "generations").iterdir()]:
        file.unlink()
    run(config, tmp_path / "run", resume=True)
    assert results(tmp_path / "again") == results(tmp_path / "run")


def test_an_operator_that_costs_and_brings_nothing_is_drawn_less(tmp_path: Path) -> None:
    def babble(exemplars: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
        # the engine writes no tags unless it is asked for thoughts in our words
        return Proposal("babble", prompt=f"Say something {rng.random()}:", thinks=True)

    mix, count = {"babble": 0.5, "mutate": 0.5}, {}
    for adapt in ("none", "probability-matching"):
        operators = {**ADAPTED, "mix": mix, "offspring": 60, "adapt": adapt}
        run(parse_config(tables(operators=operators)), tmp_path / adapt, operators={"babble": babble})
        born = candidates(tmp_path / adapt).filter(pl.col("operator") == "babble")
        count[adapt] = [born.filter(pl.col("generation") == number).height for number in (1, 3)]
        assert set(born["gate_reason"]) == {"no tags"}
    assert count["none"][0] == count["probability-matching"][0]
    assert count["probability-matching"][1] < count["none"][1]
    shares = pl.read_parquet(tmp_path / "probability-matching" / "logbook.parquet")["share_babble"].to_list()
    assert shares[0] == 0.5 > shares[1] > shares[2] > shares[3] > 0.05


def test_an_audit_does_not_change_what_is_drawn(tmp_path: Path) -> None:
    run(parse_config(tables(operators=ADAPTED)), tmp_path / "plain")
    audit = {"kind": "judge", "scale": 10}
    run(parse_config({**tables(operators=ADAPTED), "audit": audit}), tmp_path / "audited")
    assert json.loads((tmp_path / "audited" / "spending.json").read_text())["total"]["requests"] > 1000
    assert shares_of(tmp_path / "plain").equals(shares_of(tmp_path / "audited"))


def test_without_the_key_shares_stay_and_no_column_tells_of_them(tmp_path: Path) -> None:
    run(parse_config(tables()), tmp_path / "run")
    assert not [name for name in pl.read_parquet(tmp_path / "run" / "logbook.parquet").columns if "share" in name]
    assert parse_config(tables()).operators.adapt == "none"
