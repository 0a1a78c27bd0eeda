"""`filter` and `ablate` of a run: its own selection gives its survivors again, and any other costs nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

import fittest
from fittest.evo.errors import FittestError
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.export import export
from tests.conftest import null_tables


def called(verb: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, [verb, *(str(argument) for argument in arguments)])


def evolved(out: Path, **sections: dict[str, Any]) -> Path:
    run(parse_config(null_tables(**sections)), out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evolved(tmp_path_factory.mktemp("filter-run") / "run")


def pool_survivors(folder: Path) -> pl.DataFrame:
    # who is a parent at the end, and how often a prompt was drawn, is no matter of a filter
    survivors = pl.read_parquet(folder / "survivors.parquet").filter(pl.col("generation") == 0)
    return survivors.drop("in_population", "draws", "draws_passed")


def kept(out: Path) -> pl.DataFrame:
    # the run did not ask how likely they would be kept again
    survivors = pl.read_parquet(out / "survivors.parquet")
    return survivors.drop("in_population", "draws", "draws_passed", "keep_share", "keep_probability")


SELECTIONS: list[dict[str, dict[str, Any]]] = [
    {},
    {"selection": {"pairing": "best-random", "length_unit": "words"}, "run": {"seed": 11}},
    {"selection": {"metrics": ["m1", "m2", "reward_std"], "at_most": {"chosen_length": 350}}},
    {"selection": {"percentiles": {"m1": [30, 95]}, "quantile": 0.07}},
    {"selection": {"policy": "annealed", "quantile": 0.2, "final_quantile": 0.6}},
    {"selection": {"policy": "tightening", "quantile": 0.2, "target_pass_rate": 0.3}},
    {"selection": {"policy": "absolute", "min_reward": 0.3, "max_gap": 0.25, "race_round": 0}},
    {"selection": {"policy": "per-generation", "quantile": 0.4}},
]


@pytest.mark.parametrize("sections", SELECTIONS)
def test_a_filter_of_a_run_gives_the_survivors_of_its_pool_again(
    sections: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = evolved(tmp_path / "run", **sections)
    result = called("filter", folder, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert kept(tmp_path / "out").equals(pool_survivors(folder))
    assert 0 < kept(tmp_path / "out").height < 36
    cuts, before = (json.loads((at / "thresholds.json").read_text()) for at in (tmp_path / "out", folder))
    keys = ("n", "length_unit", "reward_id")
    assert [cuts[key] for key in keys] == [before[key] for key in keys]
    if sections.get("selection", {}).get("policy") is None:
        # the cuts of the last generation are those of the pool; of percentiles there is no one quantile
        assert {**cuts, "quantile": None} == {**before, "quantile": None}


def test_other_cuts_and_pairings_need_no_engine(folder: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(folder / "generations" / "0000.parquet").drop_nulls("m1")
    result = called("filter", folder, "--quantile", "0.5", "--metrics", "m1", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    high = table.filter(pl.col("m1") >= float(np.quantile(table["m1"].to_numpy(), 0.5)))
    assert kept(tmp_path / "one")["prompt_id"].to_list() == high["prompt_id"].to_list()

    called(
        "filter", folder, "--pairing", "best-random", "--quantile", "0", "--metrics", "m1", "--out", tmp_path / "two"
    )
    called("filter", folder, "--quantile", "0", "--metrics", "m1", "--out", tmp_path / "all")
    random, worst = kept(tmp_path / "two"), kept(tmp_path / "all")
    assert random["chosen"].equals(worst["chosen"])
    assert not random["rejected"].equals(worst["rejected"])


def test_offspring_keep_their_birth_and_those_that_lost_a_race_are_left_out_and_counted(
    folder: Path, tmp_path: Path
) -> None:
    result = called(
        "filter", folder, "--generation", 2, "--generation", 1, "--quantile", "0", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    found = kept(tmp_path / "out")
    tables = []
    for number in (1, 2):
        births = pl.read_parquet(folder / "generations" / f"000{number}.parquet").filter(pl.col("gate").is_null())
        raced = births["censored"].sum()
        assert f"generation {number}: {raced} of {births.height} prompts lost a race" in result.output
        tables.append(births.filter(~pl.col("censored")).with_columns(generation=pl.lit(number, dtype=pl.Int64)))
    expected = pl.concat(tables)
    columns = ["prompt_id", "prompt", "generation", "slot", "operator", "parents", "exemplars", "diversity", "source"]
    assert found.select(columns).equals(expected.select(columns))
    assert found["licence"].null_count() == 0
    assert "| Apache-2.0 |" in (tmp_path / "out" / "card.md").read_text()


def test_runs_and_tables_are_read_together(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "another prompt", "response": "word " * k, "reward": k / 4} for k in range(1, 5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "table.parquet")
    result = called("filter", folder, tmp_path / "table.parquet", "--quantile", "0", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    accepted = pl.read_parquet(folder / "generations" / "0000.parquet").filter(pl.col("gate").is_null()).height
    assert (summary["seed_prompts"], summary["survivors"]) == (accepted + 1, accepted + 1)
    last = kept(tmp_path / "out").row(-1, named=True)
    assert (last["prompt"], last["operator"], last["reward_id"], last["chosen_truncated"]) == (
        "another prompt", "pool", None, None,
    )  # fmt: skip
    assert set(kept(tmp_path / "out")["reward_id"][:-1]) == {"null:1"}


def test_a_run_without_cuts_cannot_be_repeated_and_this_is_said(tmp_path: Path) -> None:
    folder = evolved(tmp_path / "run", run={"generations": 0}, selection={"policy": "pareto", "quantile": 0.2})
    result = fittest.filter(folder, tmp_path / "out")
    assert any("the run has no cuts" in warning for warning in result.summary["warnings"])
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["quantile"] == 0.2
    stated = fittest.filter(folder, tmp_path / "stated", cuts=fittest.Cuts(quantile=0.4))
    assert not any("the run has no cuts" in warning for warning in stated.summary["warnings"])


def test_rewards_of_two_judges_are_said_to_be_mixed(folder: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(folder, tmp_path / "run")
    # its hashes are those of the tables as they were
    (mixed / "journal.sqlite").unlink()
    path = mixed / "responses" / "0001.parquet"
    pl.read_parquet(path).with_columns(reward_id=pl.lit("null:2")).write_parquet(path)
    result = fittest.filter(mixed, tmp_path / "out", generations=(0, 1))
    assert "the rewards are of 2 judges (null:1, null:2) and do not compare" in " ".join(result.summary["warnings"])
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["reward_id"] == "null:1+null:2"
    assert set(result.survivors["reward_id"]) == {"null:1", "null:2"}
    assert result.survivors.filter(pl.col("generation") == 1)["reward_id"].unique().to_list() == ["null:2"]


def test_a_prompt_that_two_judges_scored_names_both(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    # its hashes are those of the tables as they were
    (other / "journal.sqlite").unlink()
    path = other / "responses" / "0000.parquet"
    pl.read_parquet(path).with_columns(reward_id=pl.lit("null:2")).write_parquet(path)
    survivors = fittest.filter([folder, other], tmp_path / "out").survivors
    assert set(survivors["reward_id"]) == {"null:1+null:2"}


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (fittest.Columns(), "null:1"),
        (fittest.Columns(rewards={"reward": 2.0}), "columns:2.0*reward"),
        (fittest.Columns(rewards={"length": 1.0}), "column:length"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "parquet", "jsonl"])
def test_another_reward_does_not_go_by_the_name_of_the_judge(
    suffix: str, columns: fittest.Columns, name: str, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / f"responses.{suffix}" if suffix else folder
    if suffix:
        export(folder, to="responses", out=source)
    result = fittest.filter(source, tmp_path / "out", columns=columns)
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["reward_id"] == name
    assert set(result.survivors["reward_id"]) == {"null:1" if name == "null:1" else None}


def test_a_source_that_is_given_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    result = called("filter", folder, f"{folder}/../{folder.name}", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.output.strip() == f"fittest: {folder}: is given twice; each of its responses would count as two"


def test_a_run_that_fitted_its_cuts_to_a_pilot_says_whose_cuts_these_are(tmp_path: Path) -> None:
    folder = evolved(tmp_path / "run", run={"generations": 0}, selection={"pilot": 0.4, "race_round": 0})
    (said,) = fittest.filter(folder, tmp_path / "out").summary["warnings"]
    assert said.startswith("the run fitted its cuts to 40% of its pool (selection.pilot)")
    cuts = fittest.Cuts(thresholds=folder / "thresholds.json")
    again = fittest.filter(folder, tmp_path / "again", cuts=cuts)
    assert again.summary["warnings"] == []
    assert kept(tmp_path / "again").equals(pool_survivors(folder))


def test_cuts_of_the_run_are_used_on_a_run_again(folder: Path, tmp_path: Path) -> None:
    result = called("filter", folder, "--thresholds", folder / "thresholds.json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert kept(tmp_path / "out").equals(pool_survivors(folder))


def test_the_tables_of_a_filter_of_a_run_are_those_of_a_table_of_the_same_rows(folder: Path, tmp_path: Path) -> None:
    """What names reward and truncation in a run does so in any table."""
    prompts = pl.read_parquet(folder / "generations" / "0000.parquet").select("prompt_id", "prompt")
    rows = pl.read_parquet(folder / "responses" / "0000.parquet").join(prompts, on="prompt_id", maintain_order="left")
    rows.write_parquet(tmp_path / "rows.parquet")
    fittest.filter(folder, tmp_path / "run", cuts=fittest.Cuts(quantile=0.1))
    fittest.filter(tmp_path / "rows.parquet", tmp_path / "table", cuts=fittest.Cuts(quantile=0.1))
    of_run, of_table = kept(tmp_path / "run"), kept(tmp_path / "table")
    columns = ["prompt_id", "chosen", "rejected", "chosen_truncated", "rejected_truncated", "reward_id", "reward_gap"]
    assert of_run.select(columns).equals(of_table.select(columns))
    assert of_run["chosen_truncated"].any()


def test_a_run_that_is_not_complete_says_what_is_sealed(folder: Path, tmp_path: Path) -> None:
    begun = shutil.copytree(folder, tmp_path / "run")
    (begun / "summary.json").unlink()
    (begun / "generations" / "0002.parquet").unlink()
    result = called("filter", begun, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "the run is not complete; sealed are 0 to 1 of 2" in result.output
    assert kept(tmp_path / "out").equals(pool_survivors(folder))


@pytest.mark.parametrize(
    ("lost", "arguments", "said"),
    [
        ("responses", (), "has no responses/, since an earlier fittest wrote it"),
        ("generations", (), "no generation is sealed yet"),
        (None, ("--generation", 7), "generation 7 is not sealed; sealed are 0 to 2"),
        (None, ("--reward-column", "score"), "no column 'score', wanted as reward"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(
    lost: str | None, arguments: tuple[object, ...], said: str, folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(folder, tmp_path / "run")
    if lost is not None:
        shutil.rmtree(other / lost)
    result = called("filter", other, *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_table_of_a_run_without_its_prompts_points_to_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="give the run's folder instead"):
        fittest.filter(folder / "responses" / "0000.parquet", tmp_path / "out")
    pl.DataFrame({"prompt": ["a"], "response": ["b"], "reward": [1.0]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(FittestError, match="a table has no generations to choose"):
        fittest.filter(tmp_path / "t.parquet", tmp_path / "out", generations=(1,))


def test_ablate_compares_on_a_run(folder: Path, tmp_path: Path) -> None:
    result = called("ablate", folder, "--out", tmp_path / "out", "--audit-reward", "completion_tokens")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (found["reward_id"], found["seed"]) == ("null:1", 3)
    table = pl.read_parquet(tmp_path / "out" / "ablation.parquet")
    medians = fittest.filter(folder, tmp_path / "medians", cuts=fittest.Cuts(quantile=0.5)).summary["survivors"]
    assert table.filter(pl.col("filter") == "RIP at 50 %")["kept"].to_list() == [medians]
    assert table["audit_average"].max() > 1


def test_prompts_whose_metrics_came_without_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    def half(toolbox: Any) -> None:
        usual = toolbox.evaluate

        async def evaluate(individuals: Any) -> Any:
            return [(0.5, 40.0, 0.1)] if individuals[0].birth.slot % 2 else await usual(individuals)

        toolbox.register("evaluate", evaluate)

    tables = null_tables(run={"generations": 0}, selection={"race_round": 0})
    fittest.run(parse_config(tables), tmp_path / "run", customise=half)
    sealed = pl.read_parquet(tmp_path / "run" / "generations" / "0000.parquet").filter(pl.col("gate").is_null())
    unanswered = sealed.filter(pl.col("slot") % 2 == 1).height
    (said,) = fittest.filter(tmp_path / "run", tmp_path / "out").summary["warnings"]
    assert said.startswith(f"generation 0: {unanswered} of {sealed.height} prompts have no response on record")


def test_the_system_prompt_of_a_run_is_in_exports_of_its_filter(folder: Path, tmp_path: Path) -> None:
    asked = evolved(tmp_path / "run", run={"generations": 0}, engine={"system": "Be short."})
    fittest.filter(asked, tmp_path / "out")
    export(tmp_path / "out", to="grpo", out=tmp_path / "x.jsonl")
    for line in (tmp_path / "x.jsonl").read_text().splitlines():
        assert json.loads(line)["prompt"][0] == {"role": "system", "content": "Be short."}

    mixed = fittest.filter([asked, folder], tmp_path / "mixed")
    assert "not all responses have the same system prompt" in " ".join(mixed.summary["warnings"])
    export(tmp_path / "mixed", to="grpo", out=tmp_path / "y.jsonl")
    assert {json.loads(line)["prompt"][0]["role"] for line in (tmp_path / "y.jsonl").read_text().splitlines()} == {
        "user"
    }


@pytest.mark.parametrize("option", ["--prompt-column", "--response-column"])
def test_columns_of_a_table_are_not_those_of_a_run(option: str, folder: Path, tmp_path: Path) -> None:
    result = called("filter", folder, option, "question", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--prompt-column and --response-column are of other tables" in result.output


def test_a_warning_about_races_holds_for_cuts_that_are_given(folder: Path, tmp_path: Path) -> None:
    arguments = [folder, "--generation", "1", "--thresholds", folder / "thresholds.json", "--out", tmp_path / "out"]
    (line,) = (line for line in called("filter", *arguments).output.splitlines() if "lost a race" in line)
    assert line.endswith(
        "cuts that are fitted to the rest are stricter than the run's, and cuts that are given are not"
    )
