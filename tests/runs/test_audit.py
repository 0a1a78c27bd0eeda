"""An audit scores what a run has answered, and changes nothing in it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.evo.records import Missing
from fittest.fitness.trends import Moments
from fittest.runs import parse_config, run
from fittest.runs.output.audit_book import AUDIT_COLUMNS
from tests.conftest import null_tables

TABLES = ("survivors.parquet", "generations/0000.parquet", "generations/0002.parquet", "thresholds.json")


def share_of_vowels(prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
    return [sum(letter in "aeiou" for letter in text) / len(text) for text in responses]


def answered(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted((folder / "responses").glob("0*.parquet"))])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.mark.parametrize("mode", ["generational", "steady-state"])
def test_an_audit_changes_no_table_but_adds_its_columns(mode: str, tmp_path: Path) -> None:
    tables = null_tables(run={"mode": mode}, engine={"slots": 1}, selection={"race_round": 1})
    plain = run(parse_config(tables), tmp_path / "plain").folder
    if mode == "steady-state":
        # the order in which replies come is chance, so that the same order is taken again
        tables["engine"] = {**tables["engine"], "kind": "replay", "path": str(plain / "journal.sqlite")}
    audited = run(parse_config(tables), tmp_path / "audited", audit=share_of_vowels).folder
    assert content(audited) == content(plain)
    one, other = (pl.read_parquet(folder / "logbook.parquet") for folder in (plain, audited))
    assert other.drop(AUDIT_COLUMNS).equals(one)
    assert answered(audited).drop("audit_reward").drop("engine").equals(answered(plain).drop("engine"))


def test_every_response_of_the_first_draw_is_scored_under_the_audits_own_fingerprint(tmp_path: Path) -> None:
    tables = null_tables(selection={"retest": 0.0})
    result = run(parse_config(tables), tmp_path / "run", audit=share_of_vowels)
    responses = answered(result.folder)
    expected = [share_of_vowels([""], [text])[0] for text in responses["response"]]
    assert responses["audit_reward"].to_list() == expected
    with closing(sqlite3.connect(result.folder / "journal.sqlite")) as database:
        found = Counter(name for (name,) in database.execute("SELECT fingerprint FROM measurements"))
    assert found[result.summary["audit"]["reward_id"]] == found["null:1"] > 0


def test_the_logbook_sets_both_rewards_side_by_side_over_prompts_that_no_race_has_chosen(tmp_path: Path) -> None:
    tables = null_tables(selection={"race_round": 1, "race_audit": 0.4})
    result = run(parse_config(tables), tmp_path / "run", audit=share_of_vowels)
    row = pl.read_parquet(result.folder / "logbook.parquet").row(0, named=True)
    pool = pl.read_parquet(result.folder / "responses" / "0000.parquet")
    means = pool.group_by("prompt_id", maintain_order=True).agg(pl.col("reward", "audit_reward").mean())
    assert row["reward_n"] == means.height > 30
    for column, low, high in (("reward",) * 3, ("audit_reward", "audit", "audit")):
        moments = Moments.of(means[column].to_list())
        assert row[column] == pytest.approx(moments.mean)
        assert (row[f"{low}_low"], row[f"{high}_high"]) == pytest.approx(moments.interval)
    assert result.summary["audit"]["generations"][0]["audit_reward"] == row["audit_reward"]
    assert not any("the audit has no figures" in line for line in result.summary["warnings"])
    for number in (1, 2):
        row = pl.read_parquet(result.folder / "logbook.parquet").row(number, named=True)
        births = pl.read_parquet(result.folder / "generations" / f"{number:04d}.parquet")
        drawn_in_full = births.filter(pl.col("audited"))["prompt_id"].to_list()
        answers = pl.read_parquet(result.folder / "responses" / f"{number:04d}.parquet")
        means = (
            answers.filter(pl.col("prompt_id").is_in(drawn_in_full))
            .group_by("prompt_id")
            .agg(pl.col("audit_reward").mean())
        )
        assert row["reward_n"] == len(drawn_in_full) > 2
        assert row["audit_reward"] == pytest.approx(means["audit_reward"].mean())


def test_raced_generations_without_a_prompt_that_is_drawn_in_full_have_no_figures_and_say_so(tmp_path: Path) -> None:
    tables = null_tables(selection={"race_round": 1, "race_audit": 0.0})
    result = run(parse_config(tables), tmp_path / "run", audit=share_of_vowels)
    assert pl.read_parquet(result.folder / "logbook.parquet")["reward_n"].to_list()[1:] == [0, 0]
    assert any("the audit has no figures of generation 1, 2" in line for line in result.summary["warnings"])


def test_a_resumed_run_scores_hardly_anything_twice_and_has_the_same_tables(tmp_path: Path) -> None:
    asked: Counter[tuple[str, str]] = Counter()

    def counting(prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        asked.update(zip(prompts, responses, strict=True))
        return share_of_vowels(prompts, responses)

    whole = run(parse_config(null_tables()), tmp_path / "whole", audit=counting)
    asked.clear()
    capped = parse_config(null_tables(budget={"max_requests": 230}))
    assert run(capped, tmp_path / "run", audit=counting).summary["stop_reason"] == "max_requests"
    resumed = run(parse_config(null_tables()), tmp_path / "run", audit=counting, resume=True)
    assert content(resumed.folder) == content(whole.folder)
    assert resumed.summary["audit"] == whole.summary["audit"]
    # what was scored in the very last moment before the cap rode along with no exchange
    assert sum(asked.values()) - len(asked) <= 8 * 4 < len(asked) / 4


def test_a_missing_audit_is_counted_with_its_reason_and_decides_nothing(tmp_path: Path) -> None:
    def silent(prompts: Sequence[str], responses: Sequence[str]) -> list[Missing]:
        return [Missing("out of order")] * len(responses)

    summary = run(parse_config(null_tables()), tmp_path / "run", audit=silent).summary
    assert summary["survivors"] > 0
    assert set(summary["audit"]["missing"]) == {"out of order"}
    assert any("the audit gave no reward at all" in line for line in summary["warnings"])
    assert "out of order" not in summary["failures"]


def test_a_table_of_the_configuration_names_the_audit_with_the_keys_of_a_reward(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded.parquet"
    first = run(parse_config(null_tables(run={"generations": 0})), tmp_path / "first")
    pool = answered(first.folder).join(
        pl.read_parquet(first.folder / "generations" / "0000.parquet").select("prompt_id", "prompt"), on="prompt_id"
    )
    pool.select("prompt", "response", score=pl.col("length").cast(pl.Float64)).write_parquet(recorded)
    audit = {"kind": "recorded", "path": str(recorded), "column": "score"}
    result = run(parse_config(null_tables(run={"generations": 0}, audit=audit)), tmp_path / "run")
    found = answered(result.folder)
    assert found["audit_reward"].to_list() == [float(length) for length in found["length"]]
    assert "audit.path" in (result.folder / "run.toml").read_text()
    card = (result.folder / "card.md").read_text()
    assert "audit kind" in card
    pool.select("prompt", "response", score=pl.lit(1.0)).write_parquet(recorded)
    with pytest.raises(FittestError, match=r"audit\.path"):
        run(parse_config(null_tables(run={"generations": 1}, audit=audit)), tmp_path / "run", resume=True)


def test_an_audit_by_the_reward_itself_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="audit and reward are both null:1"):
        run(parse_config(null_tables(audit={"kind": "null"})), tmp_path / "run")
    assert not (tmp_path / "run" / "run.toml").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"audit": {"kind": "nul"}}, r"audit\.kind"),
        ({"audit": {"kind": "null", "votes": 3}}, "does not take votes"),
        ({"audit": {"kind": "null"}, "judge": {"device": "cpu"}}, r"\[judge\] is for reward kind"),
        ({"prices": {"auditor": {"prompt_tokens": 1.0}}}, r"there is no \[audit\.engine\]"),
    ],
)
def test_an_audit_that_cannot_be_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parse_config(null_tables(**sections))


def test_an_audit_may_compare_with_references_when_the_reward_does_not(tmp_path: Path) -> None:
    audit = {"kind": "pairwise"}
    small = {"run": {"generations": 0}, "pool": {"limit": 4}}
    result = run(parse_config(null_tables(audit=audit, **small)), tmp_path / "run")
    assert all(reason.startswith("no verdict could be read") for reason in result.summary["audit"]["missing"])
    row = json.loads((result.folder / "spending.json").read_text())["engines"][0]
    assert row["roles"] == ["policy", "proposer", "judge", "auditor"]
