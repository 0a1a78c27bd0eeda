"""Runs on vLLM: the configuration, and where vLLM is installed (make test-vllm) a real run, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fittest.evo.errors import FittestError
from fittest.runs.config import Config, parse_config
from fittest.runs.config.file import load_config
from fittest.runs.parts.assembly import parts_of
from tests.conftest import null_tables
from tests.runs.test_crash import asked_again, replies


def config_of(**engine: Any) -> Config:
    tables = null_tables()
    tables["engine"] = {"kind": "vllm", **engine}
    return parse_config(tables)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"context": 512}, 'engine kind "vllm" does not take context'),
        ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size = 0"),
        ({"gpu_memory_utilization": 1.5}, "engine.gpu_memory_utilization = 1.5"),
        ({"engine_args": {"max_num_seqs": 4}}, "engine_args.max_num_seqs is set by engine.slots"),
        ({"engine_args": {"model": "x"}}, "engine_args.model is set by engine.model"),
        ({"engine_args": {"hf_token": "hf_0"}}, "engine_args.hf_token would be written to run.toml; put what is"),
        ({"engine_args": {"token": "hf_0"}}, "a Hugging Face token as HF_TOKEN"),
        ({"engine_args": {"load": {"aws_secret_access_key": "x"}}}, "engine_args.load.aws_secret_access_key would be"),
    ],
)
def test_a_wrong_engine_section_is_named(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message.replace(".", r"\.")):
        config_of(**engine)


def test_engine_args_pass_through_and_an_adapter_is_a_path_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[pool]\npath = "builtin:starter"\n'
        '[engine]\nkind = "vllm"\nmodel = "owner/name"\nadapter = "adapter"\nengine_args = { dtype = "float32" }\n'
    )
    engine = load_config(file).engine
    assert engine.adapter == str(tmp_path / "adapter")
    assert engine.model == "owner/name"
    assert engine.engine_args == {"dtype": "float32"}


def test_a_run_may_go_on_with_other_gpus_but_not_with_another_model() -> None:
    one, other = (config_of(model="m", tensor_parallel_size=size).lasting_tables() for size in (1, 4))
    assert one == other
    assert one != config_of(model="n", tensor_parallel_size=1).lasting_tables()


def test_without_vllm_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fittest.evo.backends.vllm_arguments.find_spec", lambda name: None)
    with pytest.raises(FittestError, match=r'engine.kind = "vllm" needs vllm: pip install "fittest\[vllm\]"'):
        parts_of(config_of(model="owner/name"))


def test_a_model_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # where vLLM is not installed, that would be said first
    for module in ("evo.backends.vllm_arguments", "runs.parts.packages"):
        monkeypatch.setattr(f"fittest.{module}.find_spec", lambda name: object())
    with pytest.raises(FittestError, match=r"no model at .*missing"):
        parts_of(config_of(model=str(tmp_path / "missing")))


def started(config: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """The command, in a process group of its own as a shell would start it."""
    command = [sys.executable, "-m", "fittest.runs.cli", "run", str(config), "--out", str(out), "--resume", *options]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def wait_for_replies(process: subprocess.Popen[str], out: Path, wanted: int, *, patience: float = 600.0) -> None:
    deadline = time.monotonic() + patience
    while process.poll() is None and replies(out) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[0]
    assert replies(out) >= wanted


def group_members(group: int) -> list[str]:
    """Command lines of the live processes of a process group."""
    found = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in found.splitlines())
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_run_on_vllm_is_stopped_killed_and_resumed(smollm2: Path, tmp_path: Path) -> None:
    """Three sessions of one run: Ctrl-C to the whole process group, SIGKILL to fittest alone, and the rest."""
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
    config, out = tmp_path / "run.toml", tmp_path / "run"
    config.write_text(
        """
        [run]
        seed = 3
        generations = 1
        [pool]
        path = "builtin:starter"
        limit = 6
        [engine]
        kind = "vllm"
        model = "smollm2-135m"
        slots = 4
        max_model_len = 1024
        engine_args = { kv_cache_memory_bytes = 268435456 }
        [engine.sampling]
        n = 2
        max_tokens = 32
        [reward]
        kind = "null"
        [selection]
        quantile = 0.3
        [operators]
        offspring = 4
        shots = 3
        [operators.sampling]
        max_tokens = 48
        [diversity]
        embedder = "hash"
        """
    )
    stopped = started(config, out)
    wait_for_replies(stopped, out, 1)
    in_flight_and_kept = replies(out)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal sends it: vLLM's processes get it as well
    said, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 130, said
    assert "interrupted; what was answered is kept" in said
    assert replies(out) > in_flight_and_kept, "what was in flight was answered after Ctrl-C"
    assert not group_members(stopped.pid)
    kept = replies(out)

    killed = started(config, out)
    wait_for_replies(killed, out, kept + 2)
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + 120
    while group_members(killed.pid) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not group_members(killed.pid), "the engine of a killed run is gone"

    resumed = started(config, out)
    said, _ = resumed.communicate(timeout=900)
    assert resumed.returncode == 0, said
    assert asked_again(out) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stop_reason"] == "generations"
    assert summary["failures"] == {}
    assert summary["completion_tokens"] > 100
    assert pl.read_parquet(out / "generations" / "0001.parquet").height == 4
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        (sessions,) = journal.execute("SELECT count(DISTINCT session) FROM replies").fetchone()
    assert sessions == 3
    # vLLM reports by the hundred lines unless it is kept quiet
    assert len(said.splitlines()) < 60, said
