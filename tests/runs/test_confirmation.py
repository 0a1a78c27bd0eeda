"""A prompt survives if it passes all its draws; survivors drawn once more decide nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from fittest.evo.prompt import Prompt
from fittest.evo.records import RIP_METRICS, Birth
from fittest.evo.seeds import SeedTree
from fittest.fitness.intervals import wilson
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.racing import RaceTrack
from fittest.fitness.repeatability import repeatability
from fittest.operators.policies import CutRule, levels_for
from fittest.operators.rejection import rule_that_keeps
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.config.file import load_config
from fittest.runs.output import responses as responses_book
from fittest.runs.output.responses import RESPONSE_SCHEMA
from fittest.runs.output.retested import retest_lines
from tests.conftest import null_tables

N = 4
K = 2
SELECTION = {"quantile": 0.1, "confirm": K}


def tables(selection: Mapping[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return null_tables(selection={**SELECTION, **(selection or {})}, **sections)


def finished(folder: Path, selection: Mapping[str, Any] | None = None, **sections: Any) -> Path:
    run(parse_config(tables(selection, **sections)), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("confirmed") / "run")


@pytest.fixture(scope="module")
def unconfirmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("unconfirmed") / "run", {"confirm": 0, "retest": 0})


def generation(folder: Path, number: int) -> pl.DataFrame:
    return pl.read_parquet(folder / "generations" / f"{number:04d}.parquet")


def responses(folder: Path, name: int | str) -> pl.DataFrame:
    return pl.read_parquet(
        folder / "responses" / (f"{name:04d}.parquet" if isinstance(name, int) else f"{name}.parquet")
    )


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def all_tables(folder: Path) -> dict[str, bytes]:
    names = ("generations/*.parquet", "responses/*.parquet", "survivors.parquet", "logbook.parquet", "pairs.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in sorted(folder.glob(name))}


def failures_by_draw(drawn: pl.DataFrame, cuts: Mapping[str, float]) -> list[tuple[str, ...]]:
    """By which metrics each draw fails, computed from its responses; one that lost a race fails by what it has."""
    found = []
    for draw in range(drawn["sample"].max() // N + 1):  # type: ignore[operator]
        part = drawn.filter(pl.col("sample") // N == draw)
        rewards, lengths = part["reward"].to_numpy(), part["length"].to_numpy()
        m1, m2, m3 = rip_metrics(rewards, lengths, np.array([part.height])).values[0, :3]
        assert part.height == N or m1 < cuts["m1"] or m3 > cuts["m3"]
        failed = {"m1": m1 < cuts["m1"], "m2": m2 < cuts["m2"] and part.height == N, "m3": m3 > cuts["m3"]}
        found.append(tuple(name for name, fails in failed.items() if fails))
    return found


@pytest.mark.parametrize("number", range(3))
def test_a_prompt_survives_if_all_its_draws_pass_and_none_is_made_after_one_that_fails(
    folder: Path, number: int
) -> None:
    line = pl.read_parquet(folder / "logbook.parquet").row(number, named=True)
    cuts = {name: line[f"tau_{name}"] for name in RIP_METRICS}
    drawn = responses(folder, number).partition_by("prompt_id", as_dict=True)
    table = generation(folder, number).filter(pl.col("gate").is_null())
    for row in table.iter_rows(named=True):
        failures = failures_by_draw(drawn[row["prompt_id"],], cuts)
        passed = [not failed for failed in failures]
        assert (row["draws"], row["draws_passed"]) == (len(passed), sum(passed))
        assert passed.index(False) == len(passed) - 1 if False in passed else len(passed) == 1 + K
        assert row["survived"] == all(passed)
        assert tuple(row["failed_metrics"]) == failures[-1]
    assert {*table["draws"]} == {1, 2, 3}
    turned_away = generation(folder, number).filter(pl.col("gate").is_not_null())
    assert turned_away.select("draws", "draws_passed").sum().row(0) == (0, 0)


def test_the_first_draw_is_the_one_there_would_be_without_confirmation(folder: Path, unconfirmed: Path) -> None:
    names = ["prompt_id", "m1", "m2", "m3", "n", "n_drawn"]
    assert generation(folder, 0).select(names).equals(generation(unconfirmed, 0).select(names))
    first = responses(folder, 0).filter(pl.col("sample") < N)
    assert first.equals(responses(unconfirmed, 0))
    kept, kept_without = ({*generation(of, 0).filter("survived")["prompt_id"]} for of in (folder, unconfirmed))
    assert kept < kept_without
    row = pl.read_parquet(folder / "survivors.parquet").row(0, named=True)
    answers = first.filter(pl.col("prompt_id") == row["prompt_id"])
    assert (row["chosen_reward"], row["rejected_reward"]) == (answers["reward"].max(), answers["reward"].min())
    assert (row["draws"], row["draws_passed"]) == (1 + K, 1 + K)


def test_only_confirmed_prompts_are_bred_from(folder: Path) -> None:
    survivors = {*pl.read_parquet(folder / "survivors.parquet")["prompt_id"]}
    for number in (1, 2):
        births = generation(folder, number)
        assert {parent for parents in births["parents"] for parent in parents} <= survivors


def test_the_summary_and_the_logbook_count_first_and_fresh_draws_apart(folder: Path) -> None:
    found, logbook = summary(folder), pl.read_parquet(folder / "logbook.parquet")
    drawn = [responses(folder, number) for number in range(3)]
    first = [part.filter(pl.col("sample") < N).height for part in drawn]
    assert logbook["rollouts"].to_list() == first
    assert logbook["rollouts_confirm"].to_list() == [
        part.height - of_first for part, of_first in zip(drawn, first, strict=True)
    ]
    assert found["rollouts"] == sum(first)
    assert found["rollouts_confirm"] == sum(part.height for part in drawn) - sum(first)
    assert found["rollouts_retest"] == responses(folder, "retest").height == found["retest"]["n"] * N


@pytest.mark.parametrize(
    "more",
    [
        {"policy": "per-generation"},
        {"pilot": 0.5},
        {"policy": "annealed", "final_quantile": 0.2},
        {"policy": "absolute", "min_reward": 0.1, "min_length": 60.0, "max_gap": 0.9},
        {"race_round": 0},
        {"race_round": 1},
        {"pairing": "best-random"},
        {"race_confidence": 0.9},
    ],
)
def test_every_policy_with_cuts_confirms(more: dict[str, Any], tmp_path: Path) -> None:
    out = finished(tmp_path / "run", more)
    for number in range(3):
        table = generation(out, number)
        assert table.filter("survived")["draws_passed"].to_list() == [1 + K] * table["survived"].sum()
        assert table.filter(pl.col("draws_passed") == 1 + K)["survived"].all()
        assert (table["draws"] - table["draws_passed"]).is_in([0, 1]).all()
    assert generation(out, 0)["draws"].max() == 1 + K
    assert summary(out)["retest"]["n"] > 0


def test_races_change_neither_draws_nor_survivors(tmp_path: Path) -> None:
    """Of the pool: what is bred later from prompts that failed differs, since races leave bounds of them."""
    given = {"policy": "absolute", "min_reward": 0.25, "min_length": 60.0, "max_gap": 0.6}
    one, other = (
        finished(tmp_path / str(size), {**given, "race_round": size}, run={"generations": 0}) for size in (0, 1)
    )
    names = ["prompt_id", "survived", "draws", "draws_passed"]
    assert generation(one, 0).select(names).equals(generation(other, 0).select(names))
    fresh = [responses(of, 0).filter(pl.col("sample") >= N) for of in (one, other)]
    assert fresh[0].height > fresh[1].height
    assert fresh[1].join(fresh[0], on=list(RESPONSE_SCHEMA), how="anti", nulls_equal=True).is_empty()


def test_a_steady_state_run_confirms_before_an_offspring_joins_and_its_replay_is_the_same(tmp_path: Path) -> None:
    steady = finished(tmp_path / "run", run={"mode": "steady-state"})
    table = pl.concat([generation(steady, number) for number in range(3)])
    assert table.filter("survived")["draws_passed"].unique().to_list() == [1 + K]
    assert {*table["draws"]} == {0, 1, 2, 3}
    again = tables(run={"mode": "steady-state"})
    again["engine"] |= {"kind": "replay", "path": str(steady / "journal.sqlite")}
    run(parse_config(again), tmp_path / "again")
    names = [name for name in all_tables(steady) if not name.startswith("responses")]
    replayed = all_tables(tmp_path / "again")
    assert {name: replayed[name] for name in names} == {name: all_tables(steady)[name] for name in names}
    assert summary(tmp_path / "again")["retest"] == summary(steady)["retest"]


def test_those_with_the_smallest_hash_are_drawn_again_in_full_and_nothing_else_changes(
    folder: Path, tmp_path: Path
) -> None:
    without = finished(tmp_path / "run", {"retest": 0})
    expected = {name: content for name, content in all_tables(folder).items() if name != "responses/retest.parquet"}
    assert all_tables(without) == expected
    assert summary(without)["retest"] is None

    again, survivors = responses(folder, "retest"), pl.read_parquet(folder / "survivors.parquet")
    by_hash = sorted(survivors["prompt_id"], key=lambda name: hashlib.sha256(f"3:{name}".encode()).digest())
    chosen = [name for name in survivors["prompt_id"] if name in by_hash[:20]]
    assert again["prompt_id"].unique(maintain_order=True).to_list() == chosen
    assert again.schema == pl.Schema(RESPONSE_SCHEMA) == responses(folder, 0).schema
    samples = again.group_by("prompt_id", maintain_order=True).agg("sample")["sample"].to_list()
    assert samples == [list(range((1 + K) * N, (2 + K) * N))] * len(chosen)
    drawn = pl.concat([responses(folder, number) for number in range(3)])
    seeds = again.join(drawn, on=["prompt_id", "response"], how="semi")
    assert seeds.height < again.height / 2


def test_the_rate_and_the_means_are_those_of_the_draw_that_decided_nothing(folder: Path) -> None:
    found, again = summary(folder), responses(folder, "retest")
    survivors = pl.read_parquet(folder / "survivors.parquet")
    logbook = pl.read_parquet(folder / "logbook.parquet")
    passed, values = 0, []
    for (name,), part in again.partition_by("prompt_id", as_dict=True, maintain_order=True).items():
        born = survivors.filter(pl.col("prompt_id") == name)["generation"].item()
        cuts = {metric: logbook[f"tau_{metric}"][born] for metric in RIP_METRICS}
        metrics = rip_metrics(part["reward"].to_numpy(), part["length"].to_numpy(), np.array([part.height])).values[0]
        values.append(metrics[:3])
        passed += metrics[0] >= cuts["m1"] and metrics[1] >= cuts["m2"] and metrics[2] <= cuts["m3"]
    n = len(values)
    low, high = wilson(passed / n, n)
    assert found["retest"] == {"n": n, "passed": passed, "rate": passed / n, "low": low, "high": high}
    means = dict(zip(RIP_METRICS, np.mean(values, axis=0), strict=True))
    assert found["retest_metrics"]["again"] == pytest.approx(means)
    drawn = survivors.filter(pl.col("prompt_id").is_in(again["prompt_id"].implode()))
    assert found["retest_metrics"]["selected"]["m1"] == pytest.approx(drawn["rejected_reward"].mean())
    assert found["retest_metrics"]["selected"]["m3"] == pytest.approx(drawn["reward_gap"].mean())


def test_the_ending_and_the_status_say_it_in_one_sentence(folder: Path) -> None:
    told = CliRunner().invoke(main, ["status", str(folder)])
    found = summary(folder)["retest"]
    assert f"of {found['n']} survivors drawn again, {found['passed']} would survive again (" in told.output.lower()
    said = retest_lines({"retest": {"n": 20, "passed": 9, "rate": 0.45, "low": 0.258, "high": 0.658}})
    assert said == ["Of 20 survivors drawn again, 9 would survive again (45 %, 26 to 66 %)."]


def test_more_generations_test_the_survivors_of_all_of_them(tmp_path: Path) -> None:
    short = finished(tmp_path / "run", run={"generations": 1})
    run(parse_config(tables(run={"generations": 2})), short, resume=True)
    whole = finished(tmp_path / "whole", run={"generations": 2})
    assert all_tables(short) == all_tables(whole)
    assert summary(short)["retest"] == summary(whole)["retest"]


def test_a_budget_that_ends_within_a_confirmation_leaves_no_survivor_and_a_larger_one_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    pool = responses(folder, 0).filter(pl.col("sample") < N).height
    out = tmp_path / "run"
    result = run(parse_config(tables(budget={"max_requests": pool + 10})), out)
    assert (result.summary["stop_reason"], result.summary["survivors"]) == ("max_requests", 0)
    (note,) = (line for line in result.summary["warnings"] if "passed their first draw" in line)
    assert note.startswith("the run ended (max_requests) before")
    run(parse_config(tables()), out, resume=True)
    assert all_tables(out) == all_tables(folder)


def test_a_budget_that_ends_within_the_retest_goes_on_as_well(folder: Path, tmp_path: Path) -> None:
    found, out = summary(folder), tmp_path / "run"
    spent = json.loads((folder / "spending.json").read_text())["total"]["requests"]
    run(parse_config(tables(budget={"max_requests": spent - 3})), out)
    assert summary(out)["stop_reason"] == "max_requests"
    assert summary(out)["retest"] is None
    run(parse_config(tables()), out, resume=True)
    assert all_tables(out) == all_tables(folder)
    assert summary(out)["retest"] == found["retest"]


def test_responses_that_are_put_away_in_parts_are_in_the_same_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses_book, "_CHARACTERS_IN_MEMORY", 500)
    out = finished(tmp_path / "run")
    for name in (0, 1, 2, "retest"):
        assert responses(out, name).equals(responses(folder, name))


def test_survival_by_rank_has_no_cuts_to_pass_again_and_says_so(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", {"policy": "pareto"})
    found = summary(out)
    assert any(line.startswith("confirmation is off: who survives by Pareto rank") for line in found["warnings"])
    assert (found["rollouts_confirm"], found["rollouts_retest"], found["retest"]) == (0, 0, None)
    assert retest_lines(found)[0].startswith("No survivor was drawn again: who survives by Pareto rank")
    table = generation(out, 0)
    assert table.filter(pl.col("n_drawn") > 0)["draws"].unique().to_list() == [1]
    assert table["draws_passed"].to_list() == table["survived"].cast(pl.Int64).to_list()


def test_a_table_that_is_replayed_is_not_drawn_from_again_unless_asked(tmp_path: Path) -> None:
    def draws(path: str, **more: Any) -> tuple[int, float]:
        engine = {"kind": "replay", "path": path}
        found = parse_config(
            {"pool": {"path": "pool.jsonl"}, "engine": engine, "reward": {"kind": "null"}, "selection": more}
        ).selection
        return found.confirm, found.retest

    default = parse_config({"pool": {"path": "pool.jsonl"}, "engine": {"kind": "null"}}).selection
    assert draws("table.parquet") == (0, 0.0)
    assert draws("table.parquet", confirm=1, retest=0.5) == (1, 0.5)
    assert draws("journal.sqlite") == (default.confirm, default.retest)
    assert default.retest == 0.1


def test_a_run_that_was_begun_before_there_were_fresh_draws_goes_on_without_them(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", {"confirm": 0, "retest": 0, "race_audit": 0}, run={"generations": 1})
    file = out / "run.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("confirm", "retest"))]
    file.write_text("\n".join(line.replace("race_audit = 0.0", "race_audit = 0.1") for line in lines))
    older = load_config(file).selection
    assert (older.confirm, older.retest, older.race_audit) == (0, 0.0, 0.0)
    # a configuration that says nothing of them does not mean their defaults of today
    run(parse_config(null_tables(selection={"quantile": 0.1}, run={"generations": 2})), out, resume=True)
    whole = finished(tmp_path / "whole", {"confirm": 0, "retest": 0, "race_audit": 0}, run={"generations": 2})
    assert all_tables(out) == all_tables(whole)


def test_audited_slots_are_sampled_in_full_lose_all_the_same_and_are_what_means_are_over(tmp_path: Path) -> None:
    more = {"confirm": 0, "quantile": 0.3, "race_round": 1}
    out = finished(tmp_path / "run", {**more, "race_audit": 0.5})
    all_drawn = finished(tmp_path / "all", {**more, "race_audit": 1.0})
    assert generation(out, 0)["audited"].null_count() == generation(out, 0).height
    logbook = pl.read_parquet(out / "logbook.parquet")
    for number in (1, 2):
        table = generation(out, number)
        audited = table.filter("audited")
        assert audited["n_drawn"].to_list() == [N] * audited.height
        assert not audited["censored"].any()
        assert 0 < audited["survived"].sum() < audited.height == logbook["audited"][number]
        assert logbook["mean_m1"][number] == pytest.approx(audited["m1"].mean())
        assert not audited.filter(~pl.col("survived"))["failed_metrics"].list.len().eq(0).any()
        assert generation(all_drawn, number)["n_drawn"].is_in([0, N]).all()


def test_an_audit_changes_no_survivor(tmp_path: Path) -> None:
    """With so easy cuts, nothing is bred from prompts that failed, of which an audit knows more than bounds."""
    more = {"confirm": 0, "quantile": 0.1, "race_round": 1}
    found = [finished(tmp_path / str(share), {**more, "race_audit": share}) for share in (0.0, 1.0)]
    one, other = (pl.read_parquet(of / "survivors.parquet") for of in found)
    assert one.height > 20
    assert one.equals(other)
    assert summary(found[0])["rollouts"] < summary(found[1])["rollouts"]


def test_the_audited_slots_are_known_before_anything_is_asked() -> None:
    track = RaceTrack(4, 1, lambda generation: None, lambda generation: RIP_METRICS, None, 0.1, SeedTree(5))

    def audited(text: str, number: int) -> list[int]:
        births = [Birth(operator="o", generation=number, slot=slot) for slot in range(2000)]
        return [birth.slot for birth in births if track.audited(Prompt(f"{text} {birth.slot}", birth))]

    assert audited("one text", 1) == audited("another text", 1) != audited("one text", 2)
    assert 150 < len(audited("one text", 1)) < 250
    assert audited("a prompt of the pool", 0) == []


def test_the_repeatability_of_the_pool_is_that_of_its_first_draws(folder: Path, unconfirmed: Path) -> None:
    found = summary(folder)["repeatability"]
    assert found == summary(unconfirmed)["repeatability"]
    first = responses(folder, 0).filter(pl.col("sample") < N)
    counts = first.group_by("prompt_id", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    keep = rule_that_keeps(CutRule(levels_for(RIP_METRICS, 0.1)), RIP_METRICS)
    expected = repeatability(first["reward"].to_numpy(), first["length"].to_numpy(), counts, keep=keep, seed=3)
    assert found == expected
    assert found["survive"]["splits"] == 50


def test_a_raced_pool_has_no_repeatability_and_says_why(tmp_path: Path) -> None:
    given = {"policy": "absolute", "min_reward": 0.25, "min_length": 60.0, "max_gap": 0.6}
    found = summary(finished(tmp_path / "run", given, run={"generations": 0}))["repeatability"]
    assert (found["m1"], found["survive"]) == (None, None)
    assert found["notes"]["m1"].startswith("the pool was raced")
