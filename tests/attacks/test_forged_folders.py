"""Folders of runs and filters whose small files are not what they say: every verb tells it in one line."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from fittest.runs.cli import main

RUN = """
[run]
generations = 1
[pool]
path = "pool.jsonl"
[engine]
kind = "null"
[engine.sampling]
n = 3
max_tokens = 16
[operators]
offspring = 4
[reward]
kind = "null"
[diversity]
embedder = "hash"
[gates]
languages = []
keywords = []
"""

FILES = {
    "run.toml": [
        "status",
        "resume",
        "go on",
        "filter",
        "ablate",
        "export",
        "export responses",
        "export split",
        "check",
    ],
    "summary.json": ["status", "resume", "filter", "export"],
    "spending.json": ["status", "resume"],
    "thresholds.json": ["filter by thresholds", "export"],
    "logbook.parquet": ["status"],
    "survivors.parquet": ["export", "export split"],
    "generations/0000.parquet": ["filter", "export"],
    "responses/0000.parquet": ["ablate", "export responses"],
    "journal.sqlite": ["resume", "go on"],
}
"""The files, and the verbs that read them."""

CONTENTS = {
    "empty": b"",
    "a list": b"[1]",
    "a list of pairs": b'[["a", 1]]',
    "null": b"null",
    "nothing in it": b"{}",
    "wrong types": b'{"stop_reason": 1, "generations": "x", "warnings": 5, "total": [], "schema": "x", "cuts": 1}',
    "nested": b"[" * 100_000,
    "digits": b'{"stop_reason": null, "generations": ' + b"9" * 5000 + b"}",
    "an order": b'{"stop_reason": "\\u001b[2J"}',
    "binary": bytes(range(256)),
    "wrong tables": b'fittest = 1\nrun = 1\nengine = []\npool = "x"\n',
    "wrong facts": b'[fittest]\nschema = "x"\nversions = 1\nfingerprints = []\n[pool]\npath = "pool.jsonl"\n',
    "utf-16": b"\xff\xfe{\0}\0",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a small run."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "pool.jsonl").write_text("".join(f'{{"prompt": "What is the colour of {n}?"}}\n' for n in range(8)))
    (folder / "c.toml").write_text(RUN)
    done = CliRunner().invoke(main, ["run", str(folder / "c.toml"), "--out", str(folder / "run")])
    assert done.exit_code in (0, 3), done.output
    return folder


VERBS = {
    "status": ["status", "{run}"],
    "resume": ["run", "{run}", "--resume"],
    "go on": ["run", "{run}", "--resume", "--set", "run.generations=2"],
    "filter": ["filter", "{run}", "--out", "{out}"],
    "filter by thresholds": ["filter", "{run}", "--out", "{out}", "--thresholds", "{run}/thresholds.json"],
    "ablate": ["ablate", "{run}", "--out", "{out}", "--limit", "3"],
    "export": ["export", "{run}", "--to", "trl-preference", "--out", "{out}.jsonl"],
    "export responses": ["export", "{run}", "--to", "responses", "--out", "{out}.parquet"],
    "export split": ["export", "{run}", "--to", "prompts", "--split", "0.3", "--out", "{out}.jsonl"],
    "check": ["check", "{run}/run.toml"],
}


QUICK = [
    ("run.toml", "wrong facts", "export"),
    ("run.toml", "wrong tables", "export"),
    ("summary.json", "a list", "status"),
    ("summary.json", "a list of pairs", "resume"),
    ("summary.json", "nothing in it", "status"),
    ("summary.json", "wrong types", "status"),
    ("summary.json", "nested", "filter"),
    ("spending.json", "a list", "status"),
    ("spending.json", "digits", "resume"),
    ("spending.json", "wrong types", "status"),
    ("thresholds.json", "nested", "export"),
    ("thresholds.json", "wrong types", "filter by thresholds"),
    ("logbook.parquet", "binary", "status"),
    ("survivors.parquet", "empty", "export"),
    ("generations/0000.parquet", "binary", "filter"),
    ("responses/0000.parquet", "empty", "ablate"),
]


@pytest.mark.parametrize(("file", "kind", "verb"), QUICK)
def test_a_forged_file_is_told_in_a_line(file: str, kind: str, verb: str, made: Path, tmp_path: Path) -> None:
    assert _done(made, tmp_path, file, kind, verb).exit_code == 2


def test_tables_of_a_run_that_lack_columns_are_told_in_a_line(made: Path, tmp_path: Path) -> None:
    for file, verb in (
        ("logbook.parquet", "status"), ("generations/0000.parquet", "filter"), ("responses/0000.parquet", "filter"),
        ("survivors.parquet", "export"),
    ):  # fmt: skip
        (folder := tmp_path / file.replace("/", "-")).mkdir()
        pl.DataFrame({"sample": ["x"], "prompt": [1.5]}).write_parquet(folder / "odd.parquet")
        done = _done(made, folder, file, (folder / "odd.parquet").read_bytes(), verb)
        assert done.exit_code == 2, (file, done.output)


@pytest.mark.attack
@pytest.mark.parametrize("file", FILES)
def test_a_forged_file_is_told_in_a_line_or_does_no_harm(file: str, made: Path, tmp_path: Path) -> None:
    for number, (kind, verb) in enumerate(product(CONTENTS, FILES[file])):
        (place := tmp_path / str(number)).mkdir()
        _done(made, place, file, kind, verb)
        shutil.rmtree(place)


def _done(made: Path, place: Path, file: str, kind: str | bytes, verb: str) -> Result:
    """Forges a file of a copy of the run, and returns what a verb makes of it."""
    shutil.copytree(made, place / "copy")
    (place / "copy" / "run" / file).write_bytes(CONTENTS[kind] if isinstance(kind, str) else kind)
    named = {"run": str(place / "copy" / "run"), "out": str(place / "out")}
    done = CliRunner().invoke(main, [part.format(**named) for part in VERBS[verb]])
    assert done.exit_code in (0, 2, 3), (verb, kind, done.output, done.exception)
    if done.exit_code == 2:
        (said,) = (line for line in done.output.splitlines() if line.startswith("fittest: "))
        assert said.isprintable()
    return done
