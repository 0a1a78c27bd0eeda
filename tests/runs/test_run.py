"""A run's tables hold what the contract lists, agree with each other, and end as configured."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution, Generation
from fittest.evo.prompt import prompt_id
from fittest.runs import parse_config, run
from fittest.runs.config import Config
from fittest.runs.output.store import Store
from fittest.runs.output.survivors import SURVIVOR_SCHEMA
from tests.conftest import null_tables

SUMMARY_KEYS = {
    "seed_prompts", "survivors", "pairs_skipped", "generations", "candidates", "gate_rejections", "rollouts",
    "rollouts_full", "prompt_tokens", "completion_tokens", "wall_seconds", "engine_idle_fraction", "stop_reason",
    "failures", "warnings", "rollouts_confirm", "rollouts_retest", "retest", "retest_metrics", "breadth", "archive",
    "repeatability",
}  # fmt: skip
THRESHOLD_KEYS = {
    "schema", "policy", "quantile", "n", "length_unit", "reward_id", "prompts_fitted", "min_reward", "min_length",
    "max_gap",
}  # fmt: skip
GENERATION_COLUMNS = [
    "prompt_id", "prompt", "slot", "operator", "template", "parents", "exemplars", "gate", "gate_reason", "m1", "m2",
    "m3", "diversity", "n", "n_drawn", "stopped_by", "censored", "survived", "failed_metrics", "source", "licence",
    "draws", "draws_passed", "audited",
]  # fmt: skip
LOGBOOK_COLUMNS = {
    "tau_m1", "tau_m2", "tau_m3", "evaluated", "passed", "pass_rate", "pass_rate_pool", "selection_intensity_m1",
    "selection_intensity_m2", "selection_intensity_m3", "rollouts", "tokens", "diversity",
}  # fmt: skip


def finished(folder: Path, **sections: dict[str, Any]) -> Path:
    run(parse_config(null_tables(**sections)), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "run")


def generations(folder: Path) -> pl.DataFrame:
    frames = [
        pl.read_parquet(file).with_columns(generation=pl.lit(int(file.stem), dtype=pl.Int64))
        for file in sorted((folder / "generations").glob("*.parquet"))
    ]
    return pl.concat(frames)


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_every_file_has_its_columns_and_keys(folder: Path) -> None:
    assert pl.read_parquet(folder / "generations" / "0001.parquet").columns == GENERATION_COLUMNS
    assert pl.read_parquet(folder / "survivors.parquet").columns == list(SURVIVOR_SCHEMA)
    assert set(pl.read_parquet(folder / "logbook.parquet").columns) >= LOGBOOK_COLUMNS
    assert set(summary(folder)) == SUMMARY_KEYS
    assert set(json.loads((folder / "thresholds.json").read_text())) == THRESHOLD_KEYS
    assert sorted(file.name for file in (folder / "generations").iterdir()) == [f"000{i}.parquet" for i in range(3)]


def test_survivors_are_the_candidates_that_survived(folder: Path) -> None:
    survived = generations(folder).filter("survived").sort("generation", "slot")
    survivors = pl.read_parquet(folder / "survivors.parquet")
    assert survivors["prompt_id"].to_list() == survived["prompt_id"].to_list()
    assert survivors["rejected_reward"].to_list() == survived["m1"].to_list()
    assert survivors["rejected_length"].to_list() == survived["m2"].to_list()
    assert survivors["reward_gap"].to_list() == survived["m3"].to_list()
    assert survivors["prompt_id"].to_list() == [prompt_id(text) for text in survivors["prompt"]]


def test_survival_is_exactly_being_on_the_good_side_of_every_cut(folder: Path) -> None:
    cuts = json.loads((folder / "thresholds.json").read_text())
    scored = generations(folder).filter(pl.col("m1").is_not_null())
    good = (
        (scored["m1"] >= cuts["min_reward"]) & (scored["m2"] >= cuts["min_length"]) & (scored["m3"] <= cuts["max_gap"])
    )
    assert scored["survived"].to_list() == good.to_list()
    assert (scored["failed_metrics"].list.len() == 0).to_list() == good.to_list()


def test_frozen_cuts_are_the_quantiles_of_the_pool(folder: Path) -> None:
    cuts = json.loads((folder / "thresholds.json").read_text())
    pool = pl.read_parquet(folder / "generations" / "0000.parquet").filter(pl.col("m1").is_not_null())
    assert cuts["min_reward"] == pool["m1"].quantile(0.3, "linear")
    assert cuts["min_length"] == pool["m2"].cast(pl.Float64).quantile(0.3, "linear")
    assert cuts["max_gap"] == pytest.approx(pool["m3"].quantile(0.7, "linear"), rel=1e-15)
    assert cuts["prompts_fitted"] == pool.height


def test_chosen_and_rejected_are_what_pairs_hold(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    survivors = pl.read_parquet(folder / "survivors.parquet").filter(pl.col("chosen") != pl.col("rejected"))
    assert [row["prompt_id"] for row in rows] == survivors["prompt_id"].to_list()
    for row, survivor in zip(rows, survivors.iter_rows(named=True), strict=True):
        assert row["prompt"] == [{"role": "user", "content": survivor["prompt"]}]
        assert row["chosen"] == [{"role": "assistant", "content": survivor["chosen"]}]
        assert row["rejected"] == [{"role": "assistant", "content": survivor["rejected"]}]
        assert survivor["chosen_reward"] - survivor["rejected_reward"] == survivor["reward_gap"]


def test_the_summary_counts_what_the_tables_hold(folder: Path) -> None:
    found, table = summary(folder), generations(folder)
    survivors = pl.read_parquet(folder / "survivors.parquet")
    turned_away = table.filter(pl.col("gate").is_not_null())
    pairs = (folder / "pairs.jsonl").read_text().count("\n")
    logbook = pl.read_parquet(folder / "logbook.parquet")
    assert found["candidates"] == table.height
    assert found["gate_rejections"] == dict(sorted(turned_away["gate"].value_counts().iter_rows()))
    assert turned_away["gate_reason"].null_count() == 0
    assert found["survivors"] == survivors.height
    assert found["pairs_skipped"] == survivors.height - pairs
    assert found["rollouts"] == table["n_drawn"].sum() == logbook["rollouts"].sum()
    retest = pl.read_parquet(folder / "responses" / "retest.parquet")
    assert found["rollouts_retest"] == retest.height > 0
    drawn_again = retest["prompt_tokens"].sum() + retest["completion_tokens"].sum()
    assert found["prompt_tokens"] + found["completion_tokens"] == logbook["tokens"].sum() + drawn_again
    assert found["stop_reason"] == "generations"
    assert 0 <= found["engine_idle_fraction"] <= 1


def test_the_population_is_bounded_and_made_of_survivors(folder: Path) -> None:
    survivors = pl.read_parquet(folder / "survivors.parquet")
    assert survivors["in_population"].sum() == 12 < survivors.height


def test_every_parent_and_exemplar_is_on_record_and_older(folder: Path) -> None:
    born = {
        row["prompt_id"]: row["generation"]
        for row in generations(folder).filter(pl.col("gate").is_null()).iter_rows(named=True)
    }
    for row in generations(folder).filter(pl.col("generation") > 0).iter_rows(named=True):
        ancestors = row["parents"] + row["exemplars"]
        assert all(born[ancestor] < row["generation"] for ancestor in ancestors)
        assert len(set(ancestors)) == len(ancestors)
        assert len(row["parents"]) == {"self_rip": 0, "mutate": 1, "cross": 2}[row["operator"]]
        assert len(row["exemplars"]) == 4


def test_sources_and_licences_are_those_of_the_ancestors(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    words = ["river", "bread", "engine", "garden", "letter", "mountain", "kitchen", "winter"]
    rows = [
        {"prompt": f"Explain how a {a} and a {b} are alike.", "source": a, "licence": "MIT" if i % 2 else "CC0-1.0"}
        for i, (a, b) in enumerate((a, b) for a in words for b in words if a != b)
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = finished(tmp_path / "run", pool={"path": str(pool)}, gates={"rouge_l": 1.0, "novelty": 0.0})
    everything = generations(folder)
    licences = {row["prompt"]: row["licence"] for row in rows}
    survivors = pl.read_parquet(folder / "survivors.parquet")
    assert survivors.filter(pl.col("generation") > 0).height > 0
    pool_of = dict(everything.filter(pl.col("generation") == 0).select("prompt_id", "prompt").iter_rows())
    for row in survivors.filter(pl.col("generation") == 1).iter_rows(named=True):
        ancestors = {licences[pool_of[ancestor]] for ancestor in row["parents"] + row["exemplars"]}
        assert row["licence"] == "; ".join(sorted(ancestors))


def test_a_run_ends_at_its_survivor_target(tmp_path: Path) -> None:
    found = summary(finished(tmp_path / "run", budget={"target_survivors": 1}))
    assert (found["stop_reason"], found["generations"]) == ("target_survivors", 0)


def test_a_token_cap_leaves_whole_generations_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", budget={"max_tokens": 9000})
    capped = summary(folder)
    assert capped["stop_reason"] == "max_tokens"
    assert capped["survivors"] == pl.read_parquet(folder / "survivors.parquet").height

    run(parse_config(null_tables()), folder, resume=True)

    whole = finished(tmp_path / "whole")
    assert (folder / "survivors.parquet").read_bytes() == (whole / "survivors.parquet").read_bytes()


def test_one_prompt_stops_for_want_of_parents(tmp_path: Path) -> None:
    pool = tmp_path / "one.txt"
    pool.write_text("Explain why the sky is blue to a child.\n")
    found = summary(finished(tmp_path / "run", pool={"path": str(pool)}))
    assert found["stop_reason"] == "no_parents"


def test_no_survivor_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", selection={"policy": "absolute", "min_reward": 99.0, "quantile": 0.5})
    found = summary(folder)
    assert found["survivors"] == 0
    assert found["generations"] == 2
    assert any("no prompt survived" in warning for warning in found["warnings"])
    assert all(len(row) == 4 for row in pl.read_parquet(folder / "generations/0001.parquet")["exemplars"])


def test_a_finished_run_is_left_alone(folder: Path, null_config: Config) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}
    assert run(null_config, folder, resume=True).evolution is None
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_folder_with_a_run_is_refused_without_resume(folder: Path, null_config: Config) -> None:
    with pytest.raises(FittestError, match="holds a run already; add --resume"):
        run(null_config, folder)


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", budget={"max_tokens": 3000})
    with pytest.raises(FittestError, match=r"engine\.sampling\.n was 4, now 5"):
        run(parse_config(null_tables(engine={"sampling": {"n": 5, "max_tokens": 60}})), folder, resume=True)


def test_another_library_version_is_a_warning(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", budget={"max_tokens": 3000})
    config_file = folder / "run.toml"
    facts = tomllib.loads(config_file.read_text())["fittest"]
    config_file.write_text(config_file.read_text().replace(f'deap = "{facts["versions"]["deap"]}"', 'deap = "1.0"'))
    found = run(parse_config(null_tables()), folder, resume=True).summary
    assert any(warning.startswith("deap is") and "began with 1.0" in warning for warning in found["warnings"])


def test_per_generation_cuts_move(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", selection={"policy": "per-generation", "quantile": 0.3})
    assert pl.read_parquet(folder / "logbook.parquet")["tau_m1"].n_unique() == 3


def test_offspring_can_be_cut_by_other_metrics(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", selection={"quantile": 0.3, "offspring_metrics": ["m1", "m2"]})
    offspring = generations(folder).filter(pl.col("generation") > 0)
    assert "m3" not in offspring["failed_metrics"].explode().to_list()


def test_a_replayed_journal_gives_the_same_run(folder: Path, tmp_path: Path) -> None:
    again = finished(tmp_path / "again", engine={"kind": "replay", "path": str(folder / "journal.sqlite")})
    assert (again / "survivors.parquet").read_bytes() == (folder / "survivors.parquet").read_bytes()


def test_a_resume_cut_short_does_not_shrink_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path / "run", budget={"target_survivors": 1000})
    (folder / "summary.json").unlink()  # as if it had been killed before it could say that it was finished
    before = {name: (folder / name).read_bytes() for name in ("survivors.parquet", "logbook.parquet", "card.md")}
    seal = Store.seal

    def seal_and_fail(store: Store, evolution: Evolution, generation: Generation) -> None:
        seal(store, evolution, generation)
        raise FittestError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "seal", seal_and_fail)
        with pytest.raises(FittestError, match="lights"):
            run(parse_config(null_tables()), folder, resume=True)
    assert before == {name: (folder / name).read_bytes() for name in before}

    run(parse_config(null_tables()), folder, resume=True)
    assert summary(folder)["generations"] == 2


def test_trimmed_survivors_are_parents_before_failures_and_too_few_is_said(tmp_path: Path) -> None:
    one_parent = {"run": {"seed": 3, "generations": 1, "population": 1}, "selection": {"quantile": 0.0}}
    found = summary(finished(tmp_path / "run", **one_parent, operators={"mix": {"cross": 1.0}}))
    assert found["stop_reason"] == "generations"


def test_a_higher_target_goes_on(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", budget={"target_survivors": 1})
    run(parse_config(null_tables()), folder, resume=True)
    assert summary(folder)["generations"] == 2


def test_a_finished_run_refuses_another_configuration(folder: Path) -> None:
    with pytest.raises(FittestError, match=r"run\.seed was 3, now 9"):
        run(parse_config(null_tables(run={"seed": 9})), folder, resume=True)


def test_a_run_without_any_reward_says_so_first(tmp_path: Path) -> None:
    result = run(parse_config(null_tables()), tmp_path, reward=lambda prompts, responses: [None] * len(prompts))
    assert result.summary["stop_reason"] == "no_parents"
    assert result.summary["warnings"][0].startswith("no response got a reward, so no prompt has metrics (")
    assert result.summary["warnings"][0].endswith(": reward is null)")
