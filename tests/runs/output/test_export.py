"""Survivors become training rows, their card adds up, and files are whole or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.runs.config import kinds
from fittest.runs.output.atomic import write_json, write_parquet, write_text
from fittest.runs.output.card import write_card
from fittest.runs.output.export import export, pair_rows
from fittest.runs.output.exporters import EXPORTERS
from fittest.runs.output.responses import RESPONSE_SCHEMA
from fittest.runs.output.survivors import lineage
from fittest.runs.sources.pool import read_pool
from tests.runs.output.exported_run import TEXTS, frame, responses, survivor

SURVIVORS = frame(
    survivor("a"),
    survivor("b", licence="Apache-2.0", source="mail"),
    survivor("c", licence=None, chosen="same", rejected="same"),
    survivor("d", generation=1, operator="cross", parents=["a", "b"], licence="Apache-2.0; MIT", source="forum; mail"),
    survivor("e", generation=2, operator="self_rip", exemplars=["d", "x"], licence="Apache-2.0; MIT"),
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of two offspring generations; x was scored and failed, a second a was turned away as a duplicate."""
    folder = tmp_path / "run"
    write_parquet(folder / "survivors.parquet", SURVIVORS)
    failed = survivor("x")
    duplicate = survivor("a", generation=1, parents=["b"], gate="exact")
    candidates = [*SURVIVORS.iter_rows(named=True), failed, duplicate]
    for generation in range(3):
        rows = [{"gate": None, **row} for row in candidates if row["generation"] == generation]
        sealed = pl.DataFrame(rows, schema_overrides={"parents": TEXTS, "exemplars": TEXTS, "gate": pl.String})
        write_parquet(folder / "generations" / f"{generation:04d}.parquet", sealed)
        answers = [answer for row in candidates if row["generation"] == generation for answer in responses(row)]
        write_parquet(
            folder / "responses" / f"{generation:04d}.parquet", pl.DataFrame(answers, schema=RESPONSE_SCHEMA)
        )
    write_json(folder / "thresholds.json", {"schema": 1, "policy": "quantile", "min_reward": 0.25, "n": 8})
    write_json(folder / "summary.json", {"warnings": ["5 of 9 responses were cut at max_tokens"]})
    write_text(
        folder / "run.toml",
        '[engine]\nkind = "llamacpp"\nmodel = "smollm2-135m"\n[reward]\nkind = "head"\n'
        '[fittest.fingerprints]\nengine = "f00"\n',
    )
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_preference_rows_are_conversational_and_leave_out_equal_pairs(run_folder: Path, tmp_path: Path) -> None:
    result = export(run_folder, to="trl-preference", out=tmp_path / "pairs.jsonl")
    assert (result.rows, result.skipped) == (4, 1)
    rows = rows_of(result.out)
    assert rows == list(pair_rows(SURVIVORS))
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "Prompt a?"}],
        "chosen": [{"role": "assistant", "content": "good a"}],
        "rejected": [{"role": "assistant", "content": "bad a"}],
        "prompt_id": "a",
        "source": "forum",
        "licence": "MIT",
        "chosen_reward": 2.0,
        "rejected_reward": 1.0,
    }


def test_sft_rows_end_with_the_best_answer(run_folder: Path, tmp_path: Path) -> None:
    result = export(run_folder, to="trl-sft", out=tmp_path / "sft.jsonl")
    assert (result.rows, result.skipped) == (5, 0)
    turns = [{"role": "user", "content": "Prompt a?"}, {"role": "assistant", "content": "good a"}]
    assert rows_of(result.out)[0]["messages"] == turns


def test_kto_rows_label_both_answers(run_folder: Path, tmp_path: Path) -> None:
    result = export(run_folder, to="kto", out=tmp_path / "kto.jsonl")
    assert (result.rows, result.skipped) == (8, 1)
    assert [row["label"] for row in rows_of(result.out)[:2]] == [True, False]


def test_exported_prompts_are_a_pool_for_another_run(run_folder: Path, tmp_path: Path) -> None:
    for name in ("prompts.jsonl", "prompts.parquet"):
        result = export(run_folder, to="prompts", out=tmp_path / name)
        pool = read_pool(result.out).prompts
        assert [prompt.text for prompt in pool] == SURVIVORS["prompt"].to_list()
        assert [prompt.licence for prompt in pool] == SURVIVORS["licence"].to_list()


def test_parquet_and_json_lines_hold_the_same_rows(run_folder: Path, tmp_path: Path) -> None:
    lines = export(run_folder, to="trl-preference", out=tmp_path / "pairs.jsonl").out
    table = export(run_folder, to="trl-preference", out=tmp_path / "pairs.parquet").out
    assert pl.read_parquet(table).to_dicts() == rows_of(lines)


def test_survivors_without_answers_give_no_pairs() -> None:
    assert list(pair_rows(frame(survivor("a", chosen=None)))) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_run_without_survivors_exports_nothing_but_does_not_fail(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / "survivors.parquet", SURVIVORS.clear())
    result = export(tmp_path, to="trl-preference", out=tmp_path / name)
    assert (result.rows, result.skipped) == (0, 0)
    assert "No survivors." in result.card.read_text(encoding="utf-8")


def test_a_column_without_a_value_is_still_text_in_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "survivors.parquet", frame(survivor("a", licence=None)))
    out = export(tmp_path, to="trl-preference", out=tmp_path / "out.parquet").out
    assert pl.read_parquet_schema(out)["licence"] == pl.String


def test_an_unknown_exporter_lists_the_known(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="no exporter 'csv'; the known are grpo, kto, prime-rl, prompts, responses"):
        export(run_folder, to="csv", out=tmp_path / "out.jsonl")


def only_ids(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"id": row["prompt_id"]}


def test_entry_points_add_exporters(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "fittest.exporters"
    installed = EntryPoints(
        [EntryPoint("ids", f"{__name__}:only_ids", group), EntryPoint("broken", "no_such_module:x", group)]
    )
    monkeypatch.setattr(kinds, "entry_points", lambda group: installed)
    assert rows_of(export(run_folder, to="ids", out=tmp_path / "ids.jsonl").out)[1] == {"id": "b"}
    with pytest.raises(FittestError, match="the exporter 'broken' cannot be loaded: ModuleNotFoundError"):
        export(run_folder, to="broken", out=tmp_path / "ids.jsonl")
    with pytest.raises(FittestError, match="the known are broken, grpo, ids, kto"):
        export(run_folder, to="csv", out=tmp_path / "ids.jsonl")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match=r"holds no survivors\.parquet"):
        export(tmp_path, to="prompts", out=tmp_path / "out.jsonl")
    pl.DataFrame({"prompt": ["a"]}).write_parquet(tmp_path / "survivors.parquet")
    with pytest.raises(FittestError, match="lacks the columns prompt_id, generation"):
        export(tmp_path, to="prompts", out=tmp_path / "out.jsonl")
    (tmp_path / "survivors.parquet").write_bytes(b"PAR1")
    with pytest.raises(FittestError, match=r"survivors\.parquet: not a readable table"):
        export(tmp_path, to="prompts", out=tmp_path / "out.jsonl")


def test_the_card_counts_licences_whole_and_single(run_folder: Path) -> None:
    lines = write_card(run_folder).read_text(encoding="utf-8").splitlines()
    for line in (
        "| Apache-2.0; MIT | 2 |",
        "| not stated | 1 |",
        "| MIT | 3 | 1 | 20.0% |",
        "| Apache-2.0 | 3 | 1 | 20.0% |",
        "| forum; mail | 1 |",
        "| 2 | 1 |",
        "| cross | 1 |",
        "| min reward | 0.25 |",
        "| engine model | smollm2-135m |",
        "| engine fingerprint | f00 |",
        "- Warning: 5 of 9 responses were cut at max_tokens",
        "- For 1 of 5 survivors no licence is stated: find it out before passing them on.",
    ):
        assert line in lines


def test_the_card_stands_beside_the_export(run_folder: Path, tmp_path: Path) -> None:
    result = export(run_folder, to="trl-preference", out=tmp_path / "deep" / "pairs.jsonl")
    assert result.card == tmp_path / "deep" / "pairs.card.md"
    assert "- pairs.jsonl: 4 rows for trl-preference, 1 survivors left out" in result.card.read_text(encoding="utf-8")


def test_lineage_reaches_the_pool_through_failed_prompts_and_past_duplicates(run_folder: Path) -> None:
    found = lineage(run_folder, SURVIVORS)
    assert found is not None
    assert found.depths == (0, 0, 0, 1, 2)
    assert found.pool_ancestors == (1, 1, 1, 2, 3)


def test_lineage_that_is_not_on_record_is_not_guessed(run_folder: Path) -> None:
    (run_folder / "generations" / "0000.parquet").unlink()
    assert lineage(run_folder, SURVIVORS) is None
    assert "Not on record" in write_card(run_folder).read_text(encoding="utf-8")


@given(st.data())
def test_lineage_agrees_with_a_walk_back_to_the_pool(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    births: dict[str, list[str]] = {}
    for number in range(data.draw(st.integers(1, 12))):
        births[str(number)] = data.draw(st.lists(st.sampled_from(sorted(births)), unique=True)) if births else []
    table = frame(*(survivor(name, exemplars=ancestors) for name, ancestors in births.items()))

    def roots(name: str) -> set[str]:
        return set().union(*map(roots, births[name])) if births[name] else {name}

    def depth(name: str) -> int:
        return max((depth(ancestor) + 1 for ancestor in births[name]), default=0)

    found = lineage(tmp_path_factory.mktemp("filter"), table)
    assert found is not None
    assert found.depths == tuple(map(depth, births))
    assert found.pool_ancestors == tuple(len(roots(name)) for name in births)


@pytest.mark.parametrize("to", sorted(EXPORTERS.built_in))
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_same_survivors_give_the_same_bytes(run_folder: Path, tmp_path: Path, to: str, suffix: str) -> None:
    first = export(run_folder, to=to, out=tmp_path / "1" / f"out.{suffix}")
    second = export(run_folder, to=to, out=tmp_path / "2" / f"out.{suffix}")
    assert first.out.read_bytes() == second.out.read_bytes()
    assert first.card.read_bytes() == second.card.read_bytes()


def test_a_table_has_the_same_bytes_however_it_is_chunked(tmp_path: Path) -> None:
    write_parquet(tmp_path / "whole.parquet", SURVIVORS)
    write_parquet(tmp_path / "parts.parquet", pl.concat([SURVIVORS[:2], SURVIVORS[2:]], rechunk=False))
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "parts.parquet").read_bytes()


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "summary.json"
    write_json(file, {"survivors": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FittestError, match=r"cannot write .*summary\.json: No space left on device"):
        write_json(file, {"survivors": 2})
    assert list(tmp_path.iterdir()) == [file]
    assert json.loads(file.read_text()) == {"survivors": 1}


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FittestError, match=r"cannot write .*file/out\.txt: "):
        write_text(tmp_path / "file" / "out.txt", "x")
    with pytest.raises(FittestError, match=r"cannot write .*: Is a directory"):
        write_text(tmp_path, "x")


def test_json_refuses_what_json_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []
