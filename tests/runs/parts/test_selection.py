"""Policies, racing and cuts in whole runs: survivors stay, tables say what was done, bad settings are refused."""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
from functools import wraps
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Elimination
from fittest.runs import parse_config, run
from fittest.runs.output.warnings import _easy_generations, audit_warnings, race_audit
from fittest.runs.parts.selection import selection_of
from tests.conftest import null_tables


def finished(folder: Path, selection: dict[str, Any], **sections: dict[str, Any]) -> Path:
    run(parse_config(null_tables(selection={"quantile": 0.2, **selection}, **sections)), folder)
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def generation(folder: Path, number: int) -> pl.DataFrame:
    return pl.read_parquet(folder / "generations" / f"{number:04d}.parquet")


def survivors(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "survivors.parquet")


@pytest.mark.parametrize("round_size", [1, 2, 3])
def test_racing_keeps_every_survivor_of_the_whole_run(round_size: int, tmp_path: Path) -> None:
    sampling = {"engine": {"kind": "null", "slots": 8, "sampling": {"n": 6, "max_tokens": 60}}}
    full = finished(tmp_path / "full", {"race_round": 0}, **sampling)
    raced = finished(tmp_path / "raced", {"race_round": round_size}, **sampling)
    assert survivors(raced).equals(survivors(full))
    assert summary(raced)["rollouts"] < summary(full)["rollouts"] == summary(raced)["rollouts_full"]
    for number in range(3):
        one, other = generation(raced, number), generation(full, number)
        assert one["survived"].to_list() == other["survived"].to_list()
        stopped = one.filter("censored")
        assert (stopped["n_drawn"] < 6).all()
        assert stopped["m2"].is_null().all()
        bounds = stopped.join(other, on="slot", suffix="_full")
        assert (bounds["m1"] >= bounds["m1_full"]).all()
        assert (bounds["m3"] <= bounds["m3_full"]).all()
    assert generation(raced, 0)["censored"].sum() == 0
    assert generation(raced, 1)["censored"].sum() > 0


def test_stopped_prompts_count_in_the_pass_rate_and_in_no_mean(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"race_round": 1})
    logbook = pl.read_parquet(folder / "logbook.parquet")
    for number in range(3):
        table, row = generation(folder, number), logbook.row(number, named=True)
        drawn = table.filter(pl.col("n_drawn") > 0)
        assert row["evaluated"] == drawn.height
        assert row["stopped"] == table["censored"].sum()
        assert row["pass_rate"] == table["survived"].sum() / drawn.height
        typical = table.filter(pl.col("audited").is_null() | pl.col("audited"))
        assert row["audited"] == (typical.height - table["gate"].count() if number else None)
        assert row["mean_m1"] == pytest.approx(typical["m1"].mean())


def test_a_pilot_fits_the_cuts_and_the_rest_of_the_pool_is_raced(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"pilot": 0.5, "race_round": 1})
    cuts = json.loads((folder / "thresholds.json").read_text())
    pool = generation(folder, 0)
    assert 0 < cuts["prompts_fitted"] < pool.filter(pl.col("n_drawn") > 0).height
    assert pool["censored"].sum() > 0
    scored = pool.filter(~pl.col("censored") & pl.col("m1").is_not_null())
    passes = (
        (scored["m1"] >= cuts["min_reward"]) & (scored["m2"] >= cuts["min_length"]) & (scored["m3"] <= cuts["max_gap"])
    )
    assert passes.to_list() == scored["survived"].to_list()
    again = finished(tmp_path / "again", {"pilot": 0.5, "race_round": 1})
    assert survivors(again).equals(survivors(folder))


def test_cuts_of_another_run_race_the_pool_too(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    given = {"policy": "absolute", "thresholds": str(first / "thresholds.json"), "race_round": 1}
    second = finished(tmp_path / "second", given)
    assert generation(second, 0)["censored"].sum() > 0
    assert survivors(second).filter(pl.col("generation") == 0)["prompt"].to_list() == (
        survivors(first).filter(pl.col("generation") == 0)["prompt"].to_list()
    )


def test_cuts_fitted_to_another_number_of_responses_are_used_with_a_warning(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    given = {"policy": "absolute", "thresholds": str(first / "thresholds.json")}
    engine = {"kind": "null", "slots": 8, "sampling": {"n": 6, "max_tokens": 60}}
    second = finished(tmp_path / "second", given, engine=engine)
    assert any("fitted to 4 responses per prompt, and this run draws 6" in w for w in summary(second)["warnings"])


def test_prompts_with_fewer_rewards_than_others_are_counted(tmp_path: Path) -> None:
    def some(prompts: list[str], responses: list[str]) -> list[float | None]:
        return [None if len(text) % 5 == 0 else float(len(text)) for text in responses]

    result = run(parse_config(null_tables(selection={"quantile": 0.2})), tmp_path / "run", reward=some)
    assert any("differ in their number of scored responses" in warning for warning in result.summary["warnings"])


def test_cuts_of_another_reward_are_refused_with_both_named(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    record = json.loads((first / "thresholds.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**record, "reward_id": "armo"}))
    with pytest.raises(FittestError, match=r"reward_id 'armo', here it is 'null"):
        finished(tmp_path / "second", {"policy": "absolute", "thresholds": str(tmp_path / "other.json")})


def test_the_confidence_rule_is_named_in_every_table_and_audited(tmp_path: Path) -> None:
    folder = finished(
        tmp_path / "run",
        {"race_round": 4, "race_confidence": 0.6, "race_audit": 0.5},
        engine={"kind": "null", "slots": 8, "sampling": {"n": 16, "max_tokens": 60}},
    )
    race = summary(folder)["race"]
    offspring = pl.concat([generation(folder, 1), generation(folder, 2)])
    assert race["dropped"] == (offspring["stopped_by"] == "confidence").sum() > 0
    assert race["would_drop"] >= race["wrongly"] >= 0
    assert any("race_confidence dropped" in warning for warning in summary(folder)["warnings"])
    for table in ("survivors.parquet", "logbook.parquet", "generations/0001.parquet"):
        assert pl.read_parquet_metadata(folder / table)["race_confidence"] == "0.6"
    assert json.loads((folder / "thresholds.json").read_text())["race_confidence"] == 0.6


def test_annealed_cuts_rise_and_are_raced(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"policy": "annealed", "final_quantile": 0.6, "race_round": 1})
    pool = generation(folder, 0).filter(pl.col("m1").is_not_null())
    logbook = pl.read_parquet(folder / "logbook.parquet")
    assert logbook["tau_m1"].to_list() == [pool["m1"].quantile(level, "linear") for level in (0.2, 0.4, 0.6)]
    assert generation(folder, 1)["censored"].sum() > 0
    assert logbook["pass_rate_pool"][2] < logbook["pass_rate_pool"][0]


def test_pareto_has_no_cuts_and_keeps_its_share(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"policy": "pareto", "quantile": 0.5})
    logbook = pl.read_parquet(folder / "logbook.parquet")
    assert logbook["tau_m1"].is_null().all()
    assert logbook["pass_rate_pool"].is_null().all()
    assert (logbook["pass_rate"] >= 0.5).all()
    assert any("racing is off" in warning for warning in summary(folder)["warnings"])
    thresholds = folder / "thresholds.json"
    with pytest.raises(FittestError, match="holds no cuts"):
        finished(tmp_path / "next", {"policy": "absolute", "thresholds": str(thresholds)})


def test_a_guard_on_length_holds_beside_any_policy(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"at_most": {"chosen_length": 150}})
    assert survivors(folder).height > 0
    assert (survivors(folder)["chosen"].str.len_chars() <= 150).all()
    record = json.loads((folder / "thresholds.json").read_text())
    assert record["cuts"]["chosen_length"] == [None, 150.0]


def test_percentiles_of_one_metric_alone(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"metrics": ["average_reward"], "percentiles": {"average_reward": [25, 75]}})
    record = json.loads((folder / "thresholds.json").read_text())
    assert (record["min_reward"], record["min_length"], record["max_gap"]) == (None, None, None)
    low, high = record["cuts"]["average_reward"]
    assert low < high


def test_the_drawn_pairing_is_the_same_every_time_and_named(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", {"pairing": "best-random"})
    two = finished(tmp_path / "two", {"pairing": "best-random"})
    worst = finished(tmp_path / "worst", {})
    assert survivors(one).equals(survivors(two))
    assert not generation(one, 0).equals(generation(worst, 0))
    assert json.loads((one / "thresholds.json").read_text())["pairing"] == "best-random"


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        ({}, None),
        ({"race_round": 0, "policy": "pareto"}, None),
        ({"race_round": 4}, "draws all 4 responses at once"),
        ({"policy": "absolute", "min_length": 5.0}, "lower cut on m1"),
        ({"policy": "absolute", "max_gap": 5.0}, None),
        ({"policy": "per-generation"}, "only when a generation is sampled"),
        ({"pairing": "best-random"}, "draws the rejected response"),
        ({"metrics": ["m2"]}, "lower cut on m1 or an upper cut on m3"),
        ({"metrics": ["m1"], "percentiles": {"m1": [0, 50]}}, "lower cut on m1"),
        ({"metrics": ["m1", "m2"]}, None),
    ],
)
def test_racing_says_why_it_is_off(selection: dict[str, Any], reason: str | None) -> None:
    found = selection_of(parse_config(null_tables(selection=selection)), reward_id="null", pool_size=40)
    assert found.raced == (reason is None and selection.get("race_round") != 0)
    assert [reason in warning for warning in found.warnings] == ([] if reason is None else [True])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"policy": "annealed"}, "final_quantile goes with"),
        ({"final_quantile": 0.5}, "final_quantile goes with"),
        ({"policy": "pareto", "pilot": 0.5}, "pilot needs policy"),
        ({"target_pass_rate": 0.5}, "target_pass_rate goes with"),
        ({"policy": "tightening", "target_pass_rate": 1.0}, "target_pass_rate"),
        ({"percentiles": {"m1": [60, 20]}}, "no range within 0 to 100"),
        ({"metrics": ["m1"], "percentiles": {"m2": [0, 50]}}, "not in metrics"),
        ({"pairing": "worst-worst"}, "best-bottom:FRACTION"),
        ({"length_unit": "tokens:"}, "tokens:MODEL"),
        ({"thresholds": "t.json"}, 'need policy "absolute"'),
        ({"race_confidence": 0.2}, "race_confidence"),
        ({"race_confidence": 0.9, "race_round": 0}, "race_round is 0"),
        ({"metrics": []}, "metrics"),
    ],
)
def test_settings_that_do_not_fit_are_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config(null_tables(selection=selection))


def test_a_generation_that_passes_almost_whole_is_an_alarm() -> None:
    logbook = [
        {"generation": 0, "evaluated": 50, "pass_rate": 1.0},
        {"generation": 1, "evaluated": 50, "pass_rate": 0.94},
        {"generation": 2, "evaluated": 50, "pass_rate": 0.7},
        {"generation": 3, "evaluated": 3, "pass_rate": 1.0},
    ]
    assert _easy_generations(logbook) == [(1, 0.94)]


def test_the_alarm_reaches_the_summary(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"quantile": 0.0, "metrics": ["m1"]})
    assert any("hardly select any more" in warning for warning in summary(folder)["warnings"])


def test_confidence_without_racing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="race_confidence needs racing, which is off"):
        finished(tmp_path / "run", {"policy": "per-generation", "race_confidence": 0.9})
    assert not (tmp_path / "run" / "run.toml").exists()


def test_a_bound_holds_for_offspring_whose_metrics_do_not_name_it(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"offspring_metrics": ["m1", "m2"], "at_most": {"m3": 0.5}})
    assert survivors(folder).filter(pl.col("generation") > 0).height > 0
    assert survivors(folder)["reward_gap"].max() <= 0.5


def test_a_bound_beside_the_metrics_changes_nothing_else(tmp_path: Path) -> None:
    selection = {"metrics": ["m1"], "offspring_metrics": ["m1", "m2"]}
    plain = finished(tmp_path / "plain", selection)
    bounded = finished(tmp_path / "bounded", {**selection, "at_least": {"m2": 1}})
    assert survivors(plain).equals(survivors(bounded))


def test_cuts_of_a_file_count_where_the_metrics_do_and_bounds_beside_them(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    given = {"policy": "absolute", "thresholds": str(first / "thresholds.json")}
    second = finished(tmp_path / "second", {**given, "metrics": ["m1"], "at_most": {"chosen_length": 120}})
    failed = {name for names in generation(second, 0)["failed_metrics"].to_list() for name in names}
    assert failed == {"m1", "chosen_length"}


def test_a_file_that_cuts_a_metric_that_does_not_count_is_refused(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {"metrics": ["average_reward"]})
    given = {"policy": "absolute", "thresholds": str(first / "thresholds.json")}
    with pytest.raises(FittestError, match=r"cuts average_reward, which selection\.metrics does not name"):
        finished(tmp_path / "second", given)


def test_pareto_with_a_bound_that_never_bites_selects_as_without(tmp_path: Path) -> None:
    plain = finished(tmp_path / "plain", {"policy": "pareto"})
    bounded = finished(tmp_path / "bounded", {"policy": "pareto", "at_most": {"chosen_length": 1e9}})
    assert survivors(plain).equals(survivors(bounded))
    assert pl.read_parquet(bounded / "logbook.parquet")["pass_rate_pool"].is_null().all()


def test_other_thresholds_or_rewards_on_resume_are_refused(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    cuts = tmp_path / "cuts.json"
    cuts.write_bytes((first / "thresholds.json").read_bytes())
    tables = null_tables(selection={"policy": "absolute", "thresholds": str(cuts)}, budget={"max_tokens": 2000})
    run(parse_config(tables), tmp_path / "run")
    record = json.loads(cuts.read_text())
    cuts.write_text(json.dumps({**record, "min_reward": record["min_reward"] + 0.1}))
    with pytest.raises(FittestError, match=r"selection\.thresholds"):
        run(parse_config(null_tables(selection=tables["selection"])), tmp_path / "run", resume=True)


def test_own_rejection_is_never_raced(tmp_path: Path) -> None:
    def keep_all(values: Any, thresholds: Any, metrics: Any) -> list[tuple[()]]:
        return [() for _ in values]

    def own(toolbox: Any) -> None:
        toolbox.register("reject", keep_all)

    found = {}
    for size in (0, 1):
        config = parse_config(null_tables(selection={"race_round": size}))
        found[size] = run(config, tmp_path / str(size), customise=own)
    assert found[0].survivors["prompt"].to_list() == found[1].survivors["prompt"].to_list()
    assert any("toolbox.reject is not the rule" in warning for warning in found[1].summary["warnings"])


def test_a_decorated_evaluate_is_raced_as_the_runs_own(tmp_path: Path) -> None:
    """DEAP's idiom: a decorator needs an evaluate that is there already."""
    seen: list[str] = []

    def noting(evaluate: Any) -> Any:
        @wraps(evaluate.__call__)
        async def evaluated(individuals: Any) -> Any:
            seen.extend(prompt.id for prompt in individuals)
            return await evaluate(individuals)

        return evaluated

    config = parse_config(null_tables(selection={"race_round": 1}))
    plain = run(config, tmp_path / "plain")
    noted = run(config, tmp_path / "noted", customise=lambda toolbox: toolbox.decorate("evaluate", noting))
    assert noted.survivors.equals(plain.survivors)
    assert generation(tmp_path / "noted", 1)["censored"].sum() > 0
    drawn = pl.concat([generation(tmp_path / "noted", number) for number in range(3)]).filter(pl.col("n_drawn") > 0)
    assert sorted(seen) == sorted(drawn["prompt_id"].to_list())


def test_a_thresholds_file_is_opened_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = finished(tmp_path / "first", {}) / "thresholds.json"
    opened = 0
    usual = io.open

    def counting(file: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal opened
        opened += str(file) == str(cuts)
        return usual(file, *arguments, **named)

    # pathlib opens a file by io.open
    monkeypatch.setattr(io, "open", counting)
    finished(tmp_path / "second", {"policy": "absolute", "thresholds": str(cuts), "race_round": 1})
    assert opened == 1


def test_the_digest_of_a_thresholds_file_stands_in_the_run(tmp_path: Path) -> None:
    cuts = finished(tmp_path / "first", {}) / "thresholds.json"
    folder = finished(tmp_path / "second", {"policy": "absolute", "thresholds": str(cuts)})
    facts = tomllib.loads((folder / "run.toml").read_text())["fittest"]
    assert facts["fingerprints"]["selection.thresholds"] == hashlib.sha256(cuts.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("policy", ["quantile", "per-generation", "annealed", "tightening", "absolute", "pareto"])
def test_every_policy_takes_the_keys_that_an_earlier_fittest_wrote_for_all(policy: str) -> None:
    own = {"annealed": {"final_quantile": 0.6}, "absolute": {"min_reward": 0.5}}.get(policy, {})
    selection = {"policy": policy, "quantile": 0.5, "pilot": 0.0, "percentiles": {}, **own}
    config = parse_config(null_tables(selection=selection))
    assert config.selection.policy == policy
    assert parse_config(config.toml_tables()) == config


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"policy": "annealled"}, "did you mean 'annealed'"),
        ({"quantle": 0.5}, r"did you mean selection\.quantile"),
        ({"policy": "pareto", "percentiles": {"m1": [0, 50]}}, 'percentiles need policy "quantile" or'),
        ({"policy": "pareto", "min_reward": 0.0}, 'need policy "absolute", not "pareto"'),
        ({"policy": "absolute"}, "needs min_reward, min_length or max_gap, or thresholds"),
    ],
)
def test_a_key_says_which_policy_it_needs(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config(null_tables(selection=selection))


def test_drawn_pairs_are_never_raced(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", {"pairing": "best-random", "race_round": 1})
    for number in range(3):
        assert not generation(folder, number)["censored"].any()


def test_the_audit_counts_what_it_says() -> None:
    def prompt(*, by: str | None, stopped: bool, survived: bool) -> Prompt:
        made = Prompt(f"{by} {stopped} {survived}", Birth(operator="pool", generation=0, slot=0))
        made.elimination = Elimination(by, 0.0, 0.0, ()) if by else None  # type: ignore[arg-type]
        made.eliminated, made.survived = stopped, survived
        return made

    prompts = [
        prompt(by="confidence", stopped=True, survived=False),
        prompt(by="confidence", stopped=False, survived=True),
        prompt(by="confidence", stopped=False, survived=False),
        prompt(by="m1", stopped=True, survived=False),
        prompt(by="m1", stopped=False, survived=False),
        prompt(by=None, stopped=False, survived=True),
    ]
    found = race_audit(prompts, 0.9)
    assert found == {"confidence": 0.9, "dropped": 1, "would_drop": 2, "wrongly": 1, "wrong_share": 0.5}
    assert any("does not hold here" in said for said in audit_warnings({"race": found}))


def test_the_share_of_the_pool_that_passes_counts_those_a_race_stopped(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", {})
    given = {"policy": "absolute", "thresholds": str(first / "thresholds.json"), "race_round": 1}
    folder = finished(tmp_path / "run", given)
    pool = generation(folder, 0)
    assert pool["censored"].sum() > 0
    expected = pool["survived"].sum() / (pool["n_drawn"] > 0).sum()
    assert pl.read_parquet(folder / "logbook.parquet")["pass_rate_pool"].to_list() == [expected] * 3
