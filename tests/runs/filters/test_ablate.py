"""`filter --by` and `ablate`: each baseline keeps what its definition says, and all stand in one table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fittest.runs.cli import main
from fittest.runs.cli.options import MODEL_FILTERS
from fittest.runs.filters.ablate import _bootstrap_interval, _contenders
from fittest.runs.filters.baselines import BASELINES, JournalledLikelihood, Workbench, filter_by_baseline
from fittest.runs.filters.scoring import Scoring, score_table
from fittest.runs.sources.responses import Columns, ResponseTable, read_responses


def fittest(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 prompts of 6 responses, with a second reward that mostly agrees with the first."""
    rng = np.random.default_rng(2)
    words = [
        "a",
        "good",
        "answer",
        "names",
        "the",
        "thing",
        "first",
        "and",
        "then",
        "explains",
        "why",
        "it",
        "is",
        "so",
        "in",
        "plain",
        "words",
    ]
    rows: list[dict[str, Any]] = []
    for prompt in range(60):
        quality = rng.normal()
        for _ in range(6):
            reward = quality + rng.normal()
            text = " ".join(rng.choice(words, size=int(rng.integers(2, 40))))
            rows.append({
                "prompt": f"what is thing number {prompt}?", "response": text, "reward": reward,
                "other": reward + 0.5 * rng.normal(),
            })  # fmt: skip
    path = tmp_path / "responses.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_random_keeps_as_many_as_rip_and_depends_on_the_seed_alone(table: Path, tmp_path: Path) -> None:
    kept = {}
    for name, options in {
        "rip": (),
        "one": ("--by", "random"),
        "two": ("--by", "random"),
        "seed": ("--seed", 5),
    }.items():
        extra = ("--by", "random") if name == "seed" else ()
        assert fittest("filter", table, *options, *extra, "--out", tmp_path / name).exit_code == 0
        kept[name] = pl.read_parquet(tmp_path / name / "survivors.parquet")["prompt"].to_list()
    assert len(kept["one"]) == len(kept["rip"]) > 0
    assert kept["one"] == kept["two"] != kept["seed"]
    assert not (tmp_path / "one" / "thresholds.json").exists()


def test_jaccard_drops_the_lower_half_of_word_overlaps(table: Path, tmp_path: Path) -> None:
    assert fittest("filter", table, "--by", "jaccard", "--out", tmp_path / "out").exit_code == 0
    everything = pl.concat(
        [pl.read_parquet(tmp_path / "out" / "survivors.parquet").select("prompt", "chosen", "rejected")]
    )
    rejected = pl.read_parquet(tmp_path / "out" / "rejected.parquet")
    overlaps = [
        len(set(chosen.split()) & set(worst.split())) / len(set(chosen.split()) | set(worst.split()))
        for chosen, worst in everything.select("chosen", "rejected").iter_rows()
    ]
    assert everything.height + rejected.height == 60
    assert min(overlaps) >= rejected["score"].max()
    assert 29 <= everything.height <= 33
    assert rejected["reason"].str.starts_with("jaccard score").all()


def test_the_filters_offered_are_those_that_there_are() -> None:
    assert {name for name, baseline in BASELINES.items() if baseline.needs_model} == set(MODEL_FILTERS)
    assert set(BASELINES) - set(MODEL_FILTERS) == {"random", "jaccard"}


def test_what_a_filter_could_not_read_is_said(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = score_table(read_responses(table, Columns()), Scoring())
    bench = Workbench(found)
    monkeypatch.setitem(bench.__dict__, "tags", [("a", "b")] * 57 + [(), None, ()])
    said = ["instag-difficulty: 3 of 60 prompts gave nothing that could be read"]
    assert filter_by_baseline(bench, "instag-difficulty").warnings == said
    rows = {row.name: row for row in _contenders(found, bench, ["instag-difficulty"])}
    assert rows["instag-difficulty"].warnings == said
    assert rows["jaccard"].warnings == []


def test_percentiles_and_size_of_a_baseline(table: Path, tmp_path: Path) -> None:
    assert fittest("filter", table, "--by", "jaccard", "--keep", "0-25", "--out", tmp_path / "low").exit_code == 0
    assert pl.read_parquet(tmp_path / "low" / "survivors.parquet").height in (15, 16)
    assert fittest("filter", table, "--by", "jaccard", "--size", 7, "--out", tmp_path / "few").exit_code == 0
    assert pl.read_parquet(tmp_path / "few" / "survivors.parquet").height == 7
    for options in (("--keep", "25"), ("--by", "jaccard", "--keep", "high")):
        assert fittest("filter", table, *options, "--out", tmp_path / "bad").exit_code == 2


def test_every_filter_stands_in_the_table_with_its_numbers(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = fittest("ablate", table, "--audit-reward", "other", "--out", out)
    assert result.exit_code == 0, result.output
    found = pl.read_parquet(out / "ablation.parquet")
    assert found["filter"].n_unique() == found.height
    rows = {row["filter"]: row for row in found.iter_rows(named=True)}
    assert rows["no filter"]["kept"] == 60
    assert rows["RIP at 50 %"]["overlap_with_rip"] == 1.0
    assert rows["random, RIP's size"]["kept"] == rows["RIP at 50 %"]["kept"]
    filtered = fittest("filter", table, "--out", tmp_path / "rip")
    assert filtered.exit_code == 0
    survivors = pl.read_parquet(tmp_path / "rip" / "survivors.parquet")
    assert rows["RIP at 50 %"]["kept"] == survivors.height
    assert rows["RIP at 50 %"]["mean_m1"] == pytest.approx(survivors["rejected_reward"].mean())
    assert rows["RIP at 50 %"]["sd_m3"] == pytest.approx(np.std(survivors["reward_gap"].to_numpy()))
    alone = fittest("filter", table, "--percentiles", "m1=60-100", "--out", tmp_path / "m1")
    assert alone.exit_code == 0
    assert rows["m1 60–100"]["kept"] == pl.read_parquet(tmp_path / "m1" / "survivors.parquet").height
    for row in rows.values():
        if row["kept"] > 1:
            assert row["audit_chosen_low"] <= row["audit_chosen"] <= row["audit_chosen_high"]
    assert rows["m1 75–100"]["audit_average"] > rows["no filter"]["audit_average"]
    assert (out / "ablation.html").read_text().startswith("<!doctype html>")
    assert (out / "ablation.md").read_text().count("\n") == found.height + 2


def test_missing_audit_rewards_are_left_out(table: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(table).with_row_index()
    holes = pl.when(pl.col("index") % 3 > 0).then(pl.col("other"))
    frame.with_columns(other=holes).write_parquet(tmp_path / "holes.parquet")
    result = fittest("ablate", tmp_path / "holes.parquet", "--audit-reward", "other", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    row = pl.read_parquet(tmp_path / "out" / "ablation.parquet").row(0, named=True)
    means = frame.with_columns(other=holes).group_by("prompt").agg(pl.col("other").mean())
    assert row["audit_average"] == pytest.approx(means["other"].mean())


def test_metrics_are_of_best_worst_pairs_whatever_the_pairing(table: Path, tmp_path: Path) -> None:
    for pairing in ("best-worst", "best-random"):
        assert fittest("ablate", table, "--pairing", pairing, "--out", tmp_path / pairing).exit_code == 0
    rows = [
        pl.read_parquet(tmp_path / p / "ablation.parquet").row(0, named=True) for p in ("best-worst", "best-random")
    ]
    assert rows[0]["mean_m1"] == rows[1]["mean_m1"]


def test_prompts_without_metrics_cover_no_tags() -> None:
    rewards = [1.0, None, None, None, None, None, *[1.0, 2.0] * 6]
    prompts = ["a", "a", "b", "b", "c", "c", *(f"p{i}" for i in range(6) for _ in range(2))]
    frame = pl.DataFrame({"prompt": prompts, "response": [str(i) for i in range(18)], "reward": rewards})
    frame = frame.with_columns(reason=pl.when(pl.col("reward").is_null()).then(pl.lit("reward is null")))
    responses = ResponseTable(
        frame.drop("response").with_columns(pl.col("reward").fill_null(float("nan"))),
        frame["response"],
        np.arange(18),
        np.full(9, 2),
    )
    bench = Workbench(score_table(responses, Scoring()))
    assert len(bench.prompts) == 6
    bench.__dict__["tags"] = [("x",)] * 6
    assert filter_by_baseline(bench, "instag-diversity").kept.tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_the_audit_reward_must_be_another_one(table: Path, tmp_path: Path) -> None:
    result = fittest("ablate", table, "--audit-reward", "reward", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "an audit needs another one" in result.output


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0, 1.0], [None, None, None, None]])
def test_equal_or_missing_rewards_still_give_a_table(rewards: list[float | None], tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    frame = pl.DataFrame({"prompt": ["a", "a", "b", "b"], "response": list("wxyz"), "reward": rewards})
    frame.with_columns(pl.col("reward").cast(pl.Float64)).write_parquet(path)
    result = fittest("ablate", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(tmp_path / "out" / "ablation.parquet")["kept"][0] == (2 if rewards[0] else 0)


def test_one_response_for_each_prompt_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame({"prompt": ["a", "b"], "response": ["x", "y"], "reward": [1.0, 2.0]}).write_parquet(path)
    result = fittest("ablate", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 prompts have fewer than two scored responses" in result.output


def test_the_interval_holds_the_mean_of_normal_draws_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        low, high = _bootstrap_interval(rng.normal(size=60), seed=trial)
        assert low is not None
        assert high is not None
        inside += low <= 0.0 <= high
    assert 50 <= inside <= 60
    assert _bootstrap_interval(np.array([1.0]), 0) == (None, None)


@pytest.mark.parametrize("name", ["arena_bench_v1", "tulu2_bon16"])
def test_real_responses(name: str, shared_data: Path, tmp_path: Path) -> None:
    columns = ("--prompt-column", "instruction", "--response-column", "output")
    result = fittest("ablate", shared_data / "responses" / f"{name}.parquet", *columns, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["filters"] >= 40


def count(journal: Path, table: str) -> int:
    with closing(sqlite3.connect(journal)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.embedded
@pytest.mark.slow
def test_filters_that_ask_the_real_model_are_kept_in_the_journal(table: Path, smollm2: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.parquet"
    pl.read_parquet(table).head(18).write_parquet(few)
    for filter_, table_of in (("perplexity", "measurements"), ("instag-difficulty", "issued")):
        out = tmp_path / filter_
        first = fittest("filter", few, "--by", filter_, "--model", smollm2, "--out", out)
        assert first.exit_code == 0, first.output
        asked, survivors = count(out / "journal.sqlite", table_of), (out / "survivors.parquet").read_bytes()
        again = fittest("filter", few, "--by", filter_, "--model", smollm2, "--out", out)
        assert again.exit_code == 0, again.output
        assert (out / "survivors.parquet").read_bytes() == survivors
        assert count(out / "journal.sqlite", table_of) == asked > 0
    rejected = pl.read_parquet(tmp_path / "perplexity" / "rejected.parquet")
    assert (rejected["score"].drop_nulls() > 1).all()


class Counted:
    """Losses that are lengths, of a model that notes what it was asked and whether it was freed."""

    fingerprint = "counted"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.freed = 0

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *exc: object) -> None:
        self.freed += 1

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked.append(list(texts))
        return np.array([float(len(text)) or np.nan for text in texts])


def test_likelihoods_are_computed_in_groups_once_each_and_the_model_is_freed(tmp_path: Path) -> None:
    model = Counted()
    kept = JournalledLikelihood(model, tmp_path / "journal.sqlite", together=2)
    texts = ["a", "bb", "", "dddd", "a"]
    for _ in range(2):
        np.testing.assert_array_equal(kept.losses([None] * 5, texts), [1, 2, np.nan, 4, 1])
    assert model.asked == [["a", "bb"], ["", "dddd"]]
    assert model.freed >= 1
