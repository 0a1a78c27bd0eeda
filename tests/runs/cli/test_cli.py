"""What a user sees: one clear line for each mistake, status 2, and nothing written that was not asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w
from click.testing import CliRunner, Result

from fittest.runs.cli import main
from fittest.runs.cli.words import counted
from fittest.runs.config import Config, parse_config
from fittest.runs.config.file import load_config
from tests.conftest import null_tables

VERBS = main.list_commands(click.Context(main))


def fittest(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def config_file(folder: Path, **sections: dict[str, Any]) -> Path:
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(null_tables(**sections)))
    return path


def refused(result: Result) -> str:
    """The one line of a user's mistake."""
    assert result.exit_code == 2, result.output
    assert result.output.startswith("fittest: ")
    assert result.output.count("\n") == 1, result.output
    return result.output


def test_help_answers_at_once() -> None:
    began = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "fittest.runs.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert all(verb in shown.stdout for verb in VERBS)
    heavy = "{'torch', 'polars', 'numpy', 'deap', 'pydantic'} & set(sys.modules)"
    script = f"import sys, fittest.runs.cli; print(sorted({heavy}))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
    assert time.monotonic() - began < 60  # the bound of 0.5 s is held by the modules above not being imported


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    result = fittest(verb, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_init_prints_the_defaults(tmp_path: Path) -> None:
    printed = fittest("init").output
    path = tmp_path / "run.toml"
    path.write_text(printed)
    given, defaults = load_config(path).toml_tables(), Config(pool=parse_pool()).toml_tables()
    given["run"]["seed"] = defaults["run"]["seed"]
    assert given["engine"]["model"] == "smollm2-135m"
    assert given == defaults


def test_the_preset_of_the_paper_is_valid_and_says_what_the_paper_says(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(fittest("init", "--preset", "paper").output)
    config = load_config(path)
    assert (config.engine.sampling.n, config.operators.shots, config.selection.quantile) == (64, 8, 0.5)
    assert config.selection.offspring_metrics == ("m1", "m2")


def parse_pool() -> Any:
    return parse_config({"pool": {"path": "builtin:starter"}}).pool


def test_init_shows_every_key() -> None:
    printed = tomllib.loads(fittest("init").output)
    text = fittest("init").output
    # sections like others, which are absent unless there is one
    assert "[proposer]" in text
    assert "[audit]" in text
    for section, model in Config.model_fields.items():
        if section in ("proposer", "audit"):
            continue
        keys = model.annotation.model_fields  # type: ignore[union-attr]
        missing = [key for key in keys if key not in printed[section] and key not in text]
        assert not set(missing) - {"latency", "path", "response_column"}, section


def test_the_form_in_the_contract_is_valid() -> None:
    parse_config(
        {
            "run": {"seed": 7, "generations": 3, "population": 1000, "mode": "generational"},
            "pool": {"path": "prompts.parquet", "prompt_column": "prompt", "limit": 1000},
            "engine": {
                "kind": "llamacpp",
                "model": "smollm2-135m",
                "slots": 16,
                "sampling": {"n": 8, "temperature": 0.8, "top_p": 0.95, "max_tokens": 256},
            },
            "reward": {"kind": "head"},
            "selection": {
                "policy": "quantile",
                "quantile": 0.5,
                "metrics": ["m1", "m2", "m3"],
                "pairing": "best-worst",
                "length_unit": "chars",
                "race_round": 0,
            },
            "operators": {
                "shots": 8,
                "offspring": 256,
                "mix": {"self_rip": 0.5, "mutate": 0.3, "cross": 0.2},
                "sampling": {"temperature": 0.8, "top_p": 0.95, "max_tokens": 160},
            },
            "gates": {
                "min_chars": 10,
                "max_chars": 4000,
                "languages": ["en"],
                "keywords": ["image", "picture", "graph"],
                "rouge_l": 0.7,
                "novelty": 0.05,
                "contamination": [],
            },
            "diversity": {"embedder": "minilm", "neighbours": 10, "device": "auto"},
            "judge": {
                "device": "auto",
                "retrain_every": 0,
                "rewards": "recompute",
                "instructions": 40,
                "samples": 15,
                "max_tokens": 64,
                "iterations": 1,
                "epochs": 2,
                "learning_rate": 1e-4,
            },
            "prices": {"prompt_tokens": 0, "completion_tokens": 0, "engine_hour": 0},
            "budget": {"max_tokens": 0, "max_seconds": 0, "max_requests": 0, "max_cost": 0, "target_survivors": 0},
        }
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"run": {"generation": 3}}, "unknown key run.generation"),
        ({"runs": {"seed": 1}}, "unknown key runs"),
        ({"engine": {"sampling": {"n": 1}}}, "engine.sampling.n = 1"),
        ({"engine": {"base_urls": "x"}}, "unknown key engine.base_urls"),
        ({"engine": {"context": 99}}, 'engine kind "null" does not take context'),
        ({"engine": {"base_url": "http://x/v1"}}, 'engine kind "null" does not take base_url'),
        ({"gates": {"keywords": ["graph", ""]}}, "a keyword needs a letter or digit"),
        ({"selection": {"policy": "absolute"}}, "needs min_reward, min_length or max_gap"),
        ({"operators": {"mix": {"self_rip": 0.0}}}, "mix needs weights"),
        (
            {"operators": {"mix": {"haiku": 1.0}}},
            "unknown operator 'haiku'; known are blend, cross, mutate, reason, repair, self_rip",
        ),
        ({"pool": {"path": "missing.parquet"}}, "missing.parquet: no such file"),
        ({"gates": {"contamination": ["missing.jsonl"]}}, "missing.jsonl: no such file"),
        ({"diversity": {"embedder": "missing-model"}}, "missing-model"),
        ({"diversity": {"device": "tpu"}}, 'diversity.device = "tpu"'),
        ({"gates": {"languages": ["english"]}}, "english is no ISO 639 code"),
        ({"selection": {"policy": "absolute", "max_gap": float("inf")}}, "finite number"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_wrong_configuration_is_named_before_anything_is_spent(
    verb: str, sections: dict[str, dict[str, Any]], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--out", out] if verb == "run" else []
    assert message in refused(fittest(verb, config_file(tmp_path, **sections), *arguments))
    assert not (out / "journal.sqlite").exists()


def test_files_that_are_not_there_or_not_toml_are_named(tmp_path: Path) -> None:
    assert "no such configuration" in refused(fittest("run", tmp_path / "no.toml", "--out", tmp_path / "x"))
    (tmp_path / "bad.toml").write_text("seed = = 3")
    assert "is not TOML" in refused(fittest("check", tmp_path / "bad.toml"))
    assert "--out is missing" in refused(fittest("run", config_file(tmp_path)))
    assert "write it as table.key=value" in refused(fittest("check", config_file(tmp_path), "--set", "seed=3"))
    assert "no run here" in refused(fittest("status", tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no prompts"), ('{"text_": "x"}\n', "no column named"), ('{"prompt": 3}\n', "should be text")],
)
def test_a_pool_that_cannot_be_used_is_named(content: str, message: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(content)
    assert message in refused(fittest("run", config_file(tmp_path, pool={"path": str(pool)}), "--out", tmp_path / "o"))


def test_a_monstrous_pool_is_turned_away_prompt_by_prompt(tmp_path: Path) -> None:
    import polars as pl

    pool = tmp_path / "pool.jsonl"
    good = [f"Tell me about the {word} that everybody should know." for word in ("river", "engine", "garden")]
    rows = [
        *good,
        "x" * 100_000,
        "a NUL \0 in the middle of it",
        good[0],
        "Réponds en français, s'il te plaît, merci.",
    ]
    pool.write_text(
        "".join(json.dumps({"prompt": row}) + "\n" for row in rows) + '{"prompt": "lone \\ud800 surrogate"}\n'
    )
    result = fittest("run", config_file(tmp_path, pool={"path": str(pool)}), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = pl.read_parquet(tmp_path / "out" / "generations" / "0000.parquet")
    assert table["gate"].to_list() == [None, None, None, "length", "parse", "exact", "language", "parse"]
    assert table["prompt"].to_list()[:7] == rows[:7]


def test_check_says_what_a_run_would_do(tmp_path: Path) -> None:
    result = fittest("check", config_file(tmp_path))
    assert result.exit_code == 0
    assert "at most 352 rollouts" in result.output


def test_run_status_resume_and_export(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fittest("run", config_file(tmp_path), "--out", out).exit_code == 0
    shown = fittest("status", out)
    assert "not running; 2 of 2 generations of offspring finished" in shown.output
    assert "holds a run already; add --resume" in refused(fittest("run", config_file(tmp_path), "--out", out))
    assert "is finished; nothing was changed" in fittest("run", out, "--resume").output
    exported = fittest("export", out, "--to", "trl-sft", "--out", tmp_path / "sft.jsonl")
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "sft.card.md").exists()
    assert "known" in refused(fittest("export", out, "--to", "csv", "--out", tmp_path / "x"))


def test_resume_on_an_empty_folder_starts(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert fittest("run", config_file(tmp_path), "--out", tmp_path / "out", "--resume").exit_code == 0


def test_a_second_process_on_a_running_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = background(config_file(tmp_path, engine={"latency": 5.0}), out)
    try:
        wait_for_journal(out)
        second = refused(fittest("run", out, "--resume"))
        assert "another fittest process is writing this run" in second
        assert "running; no generation is finished yet" in fittest("status", out).output
    finally:
        first.kill()
        first.communicate()


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write there" in refused(fittest("run", config_file(tmp_path), "--out", tmp_path / "file" / "out"))


def test_a_corrupted_journal_is_named_with_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fittest("run", config_file(tmp_path, budget={"max_tokens": 4000}), "--out", out)
    journal = out / "journal.sqlite"
    content = bytearray(journal.read_bytes())
    content[8192:16384] = b"\0" * 8192
    journal.write_bytes(content)
    message = refused(fittest("run", out, "--resume", "--set", "budget.max_tokens=0"))
    assert "corrupted" in message


def background(config: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fittest.runs.cli", "run", str(config), "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_journal(out: Path, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        log = out / "journal.sqlite-wal"
        if (log.exists() and log.stat().st_size > 100_000) or (out / "generations" / "0000.parquet").exists():
            return
        time.sleep(0.02)
    raise AssertionError("the run did not begin")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_answered_and_says_how_to_go_on(number: int, tmp_path: Path) -> None:
    config, out = config_file(tmp_path, engine={"latency": 0.3}), tmp_path / "out"
    process = background(config, out)
    wait_for_journal(out)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: fittest run {out} --resume" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_second_interruption_stops_at_once(tmp_path: Path) -> None:
    config, out = config_file(tmp_path, engine={"latency": 60.0}), tmp_path / "out"
    process = background(config, out)
    wait_for_journal_to_open(out)
    process.send_signal(signal.SIGINT)
    time.sleep(2.0)  # until the first has arrived: of two that wait, the system keeps one
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=40)  # its requests take 60 s
    assert process.returncode == 130


def wait_for_journal_to_open(out: Path) -> None:
    import sqlite3
    from contextlib import closing

    for _ in range(3000):
        if (out / "journal.sqlite").exists():
            try:
                with closing(sqlite3.connect(f"file:{out / 'journal.sqlite'}?mode=ro", uri=True)) as database:
                    if database.execute("SELECT count(*) FROM issued").fetchone()[0]:
                        return
            except sqlite3.OperationalError:
                pass
        time.sleep(0.02)
    raise AssertionError("nothing was sent")


def test_the_shipped_configurations_are_valid() -> None:
    for name in ("demo.toml", "init.toml"):
        load_config(Path(str(files("fittest.runs.config").joinpath(name))))


def test_a_run_stopped_before_its_first_generation_lists_what_is_there_and_has_a_status(tmp_path: Path) -> None:
    path, out = tmp_path / "run.toml", tmp_path / "out"
    path.write_text(tomli_w.dumps(null_tables(budget={"max_tokens": 100})))
    result = fittest("run", path, "--out", out)
    assert result.exit_code == 3, result.output
    assert "ended without a survivor: its budget was reached" in result.output
    assert "stopped (max_tokens):" in result.output
    listed = [line.split()[0] for line in result.output.splitlines() if line.startswith("  ")]
    assert listed
    assert all(Path(name).exists() for name in listed)
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["rollouts"] <= summary["rollouts_full"]
    status = fittest("status", out)
    assert status.exit_code == 0, status.output
    assert "no generation is finished yet" in status.output
    assert "--resume" in status.output


@pytest.mark.parametrize(("number", "said"), [(0, "0 generations"), (1, "1 generation"), (2, "2 generations")])
def test_one_of_a_thing_has_no_s(number: int, said: str) -> None:
    assert counted(number, "generation") == said
