"""What an export leaves out is counted with its reason, and an option that changes nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from fittest.evo.errors import FittestError
from fittest.fitness.pairing import parse_pairing
from fittest.runs.cli import main
from fittest.runs.config import parse_config
from fittest.runs.output.export import export
from fittest.runs.output.export_options import ExportOptions
from fittest.runs.session import run as run_session
from tests.conftest import null_tables
from tests.runs.output.exported_run import frame, responses, survivor, write_run

NAMES = [f"{number:016x}" for number in range(1, 31)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Thirty survivors with four responses and two later draws each, whose pairs are best and worst of the first."""
    rng = np.random.default_rng(3)
    survivors, answers = [], []
    for name in NAMES:
        rewards = np.round(rng.normal(size=6), 1).tolist()
        best, worst = int(np.argmax(rewards[:4])), int(np.argmin(rewards[:4]))
        texts = [f"{name} answers {sample}" for sample in range(6)]
        row = survivor(
            name, chosen=texts[best], rejected=texts[worst], chosen_reward=rewards[best],
            rejected_reward=rewards[worst], chosen_truncated=best == 2, rejected_truncated=worst == 2,
            reward_id="judge",
        )  # fmt: skip
        survivors.append(row)
        for sample, answer in enumerate(responses(row, rewards)):
            answers.append({**answer, "response": texts[sample], "truncated": sample == 2})
    return write_run(tmp_path / "run", frame(*survivors), answers, kind="null")


def test_cut_answers_are_left_out_of_pairs_and_counted(run: Path, tmp_path: Path) -> None:
    cut = pl.read_parquet(run / "survivors.parquet")["chosen_truncated"].sum()
    assert 0 < cut < 30
    for to in ("trl-preference", "kto", "reward-pairs"):
        result = export(run, to=to, out=tmp_path / "x.jsonl")
        assert result.left_out == {"the chosen answer was cut at max_tokens": cut}
        assert f"{cut} survivors left out ({cut}: the chosen answer was cut at max_tokens)" in result.card.read_text()
        kept = export(run, to=to, out=tmp_path / "x.jsonl", options=ExportOptions(drop_truncated=False))
        assert kept.left_out == {}
    assert export(run, to="trl-sft", out=tmp_path / "x.jsonl").rows == 30
    sft = export(run, to="trl-sft", out=tmp_path / "x.jsonl", options=ExportOptions(drop_truncated=True))
    assert sft.rows == 30 - cut


def test_an_answer_of_which_it_is_not_known_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", frame(survivor("a"), survivor("b", chosen_truncated=None)))
    assert export(run, to="kto", out=tmp_path / "x.jsonl").rows == 4


def test_small_gaps_are_left_out_and_each_survivor_counts_once(tmp_path: Path) -> None:
    table = frame(
        survivor("a", chosen_reward=1.4),
        survivor("b", chosen_reward=1.5),
        survivor("c", chosen="same", rejected="same", chosen_reward=1.1),
        survivor("d", rejected_reward=None),
        survivor("e", rejected=None),
    )
    run = write_run(tmp_path / "run", table)
    result = export(run, to="trl-preference", out=tmp_path / "x.jsonl", options=ExportOptions(min_gap=0.5))
    assert [row["prompt_id"] for row in rows_of(result.out)] == ["b"]
    assert result.left_out == {
        "chosen and rejected are equal": 1,
        "no reward gap is on record": 1,
        "no two scored answers": 1,
        "the reward gap is below 0.5": 1,
    }


def test_the_pairing_of_the_run_gives_the_pairs_of_the_run(run: Path, tmp_path: Path) -> None:
    plain = export(run, to="trl-preference", out=tmp_path / "x.jsonl")
    again = export(run, to="trl-preference", out=tmp_path / "y.jsonl", options=ExportOptions(pairing="best-worst"))
    assert plain.out.read_bytes() == again.out.read_bytes()


@pytest.mark.parametrize("name", ["best-random", "best-bottom:0.5"])
def test_other_pairs_are_those_that_a_run_of_this_seed_would_draw(run: Path, tmp_path: Path, name: str) -> None:
    result = export(
        run, to="reward-pairs", out=tmp_path / "x.jsonl", options=ExportOptions(pairing=name, drop_truncated=False)
    )
    answers = pl.read_parquet(run / "responses" / "0000.parquet").filter(pl.col("sample") < 4)
    pairing, changed = parse_pairing(name), 0
    for row in rows_of(result.out):
        own = answers.filter(pl.col("prompt_id") == row["prompt_id"])
        rewards = own["reward"].to_numpy()
        # one prompt at a time, as the evaluator of a run does it
        chosen, rejected = pairing.pairs(rewards, np.array([4]), pairing.draws(7, [row["prompt_id"]]))
        assert row["chosen"][-1]["content"] == own["response"][int(chosen[0])]
        assert row["rejected"][-1]["content"] == own["response"][int(rejected[0])]
        assert row["margin"] == rewards[chosen[0]] - rewards[rejected[0]]
        changed += rewards[rejected[0]] > rewards.min()
    assert changed > 3


def test_a_survivor_whose_responses_were_not_kept_has_no_new_pair(tmp_path: Path) -> None:
    rows = [survivor("a"), survivor("b"), survivor("c")]
    run = write_run(tmp_path / "run", frame(*rows), [*responses(rows[0]), *responses(rows[2], (None, 2.0))])
    result = export(run, to="kto", out=tmp_path / "x.jsonl", options=ExportOptions(pairing="best-worst"))
    assert [row["prompt_id"] for row in rows_of(result.out)] == ["a", "a"]
    assert result.left_out == {"no two scored answers": 2}
    every = export(run, to="responses", out=tmp_path / "y.jsonl")
    assert (every.rows, every.left_out) == (5, {"no response is on record": 1})


def test_what_was_drawn_to_test_the_survivors_makes_no_pair(run: Path, tmp_path: Path) -> None:
    (run / "responses" / "0000.parquet").rename(run / "responses" / "retest.parquet")
    with pytest.raises(FittestError, match=r"holds no responses/NNNN\.parquet, which --pairing reads"):
        export(run, to="kto", out=tmp_path / "x.jsonl", options=ExportOptions(pairing="best-random"))
    with pytest.raises(FittestError, match=r"holds no responses/NNNN\.parquet, which this format reads"):
        export(run, to="responses", out=tmp_path / "x.jsonl")
    assert rows_of(export(run, to="grpo", out=tmp_path / "x.jsonl").out)[0]["reward_mean"] is None


def test_a_damaged_table_of_responses_is_named(run: Path, tmp_path: Path) -> None:
    (run / "responses" / "0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(FittestError, match=r"0001\.parquet: not a readable table of responses"):
        export(run, to="grpo", out=tmp_path / "x.jsonl")
    pl.DataFrame({"prompt_id": ["a"]}).write_parquet(run / "responses" / "0001.parquet")
    with pytest.raises(FittestError, match=r"0001\.parquet: lacks the columns sample, response, reward"):
        export(run, to="grpo", out=tmp_path / "x.jsonl")


def test_a_real_run_exports_all_its_responses_and_its_own_pairs(tmp_path: Path) -> None:
    out = tmp_path / "real"
    tables = null_tables(engine={"kind": "null", "system": "Be brief.", "sampling": {"n": 4, "max_tokens": 60}})
    summary = run_session(parse_config(tables), out).summary
    rows = rows_of(export(out, to="responses", out=tmp_path / "r.jsonl").out)
    assert len(rows) == 4 * summary["survivors"] > 0
    assert all(row["reward"] is not None and row["prompt"] for row in rows)
    keep = ExportOptions(drop_truncated=False)
    plain = rows_of(export(out, to="trl-preference", out=tmp_path / "x.jsonl", options=keep).out)
    assert plain == rows_of(out / "pairs.jsonl")
    assert plain[0]["prompt"][0] == {"role": "system", "content": "Be brief."}
    anew = ExportOptions(drop_truncated=False, pairing="best-worst", split=0.2)
    result = export(out, to="trl-preference", out=tmp_path / "y.jsonl", options=anew)
    divided = [row for path, _ in result.files for row in rows_of(path)]
    order = {row["prompt_id"]: place for place, row in enumerate(plain)}
    assert sorted(divided, key=lambda row: order[row["prompt_id"]]) == plain


def command(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("to", "options", "words"),
    [
        ("prompts", ["--min-gap", "0.5"], "--to prompts cannot use --min-gap; kto, reward-pairs, trl-preference can"),
        ("grpo", ["--keep-truncated"], "--to grpo cannot use --drop-truncated or --keep-truncated; kto"),
        ("trl-sft", ["--pairing", "best-random"], "--to trl-sft cannot use --pairing"),
        ("kto", ["--pairing", "best-best"], "pairing 'best-best': write best-worst"),
        ("kto", ["--split", "1.5"], "--split 1.5: the share for testing must lie between 0 and 1"),
        ("kto", ["--min-gap", "nan"], "--min-gap nan: the least gap must be a finite number"),
        ("kto", ["--with-reference"], "--to kto cannot use --with-reference; trl-preference can"),
        ("trl-preference", ["--with-reference"], "the engine 'null' gives no log-probabilities of given answers"),
    ],
)
def test_an_option_that_a_format_cannot_use_is_one_line(
    run: Path, tmp_path: Path, to: str, options: list[str], words: str
) -> None:
    result = command("export", run, "--to", to, "--out", tmp_path / "x.jsonl", *options)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "x.jsonl").exists()


def test_the_terminal_counts_what_is_left_out_with_its_reason(run: Path, tmp_path: Path) -> None:
    result = command("export", run, "--to", "kto", "--out", tmp_path / "x.jsonl", "--min-gap", "1.5")
    assert result.exit_code == 0, result.output
    assert "survivors gave no row (" in result.output
    assert ": the reward gap is below 1.5" in result.output


def test_a_run_without_survivors_has_no_pairs_to_choose_anew(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", frame(survivor("a")).clear(), responses(survivor("a")))
    result = export(run, to="kto", out=tmp_path / "x.jsonl", options=ExportOptions(pairing="best-random"))
    assert (result.rows, result.skipped) == (0, 0)
