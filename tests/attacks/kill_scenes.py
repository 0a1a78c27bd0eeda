"""The commands that are killed: what stands in the folder before, and an engine that costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fittest.evo.errors import FittestError
from fittest.evo.records import Request
from fittest.fitness.judge.pair import Pair
from fittest.runs.cli import main
from fittest.runs.config import parse_config
from fittest.runs.filters.cuts import By, Cuts
from fittest.runs.filters.filter import filter
from fittest.runs.judge.config import JudgeConfig
from fittest.runs.judge.pairs import make_pairs
from fittest.runs.judge.train import train_once
from fittest.runs.output.export import export
from fittest.runs.output.export_options import ExportOptions
from fittest.runs.session import run
from fittest.runs.sources.instructions import Instruction
from tests.attacks.kills import Scene
from tests.conftest import null_tables
from tests.scripted_engine import Scripted

TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json", "card.md")

TINY = "FITTEST_TINY_MODEL"
"""Where a tiny model stands that the judge is trained from."""


def small(mode: str, operators: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    return null_tables(
        **sections,
        run={"generations": 2, "population": 8, "mode": mode},
        pool={"limit": 12},
        operators={"offspring": 6, "shots": 2, **operators},
        # its model takes a second to load
        gates={"languages": []},
        engine={"slots": 4, "latency": 0.001, "sampling": {"n": 3, "max_tokens": 20}},
    )


def evolve(mode: str, folder: Path, *, operators: dict[str, Any] | None = None, **sections: dict[str, Any]) -> None:
    run(parse_config(small(mode, operators or {}, **sections)), folder / "run", resume=True)


CONFIRMED: dict[str, dict[str, Any]] = {
    "selection": {"confirm": 2, "quantile": 0.1},
    "operators": {"mix": {"repair": 0.4, "reason": 0.2, "blend": 0.4}, "adapt": "probability-matching"},
}


async def answer(asked: Request) -> str:
    """Words that follow from the request, and a verdict, since what is asked may be a judgment."""
    digest = hashlib.sha256(f"{asked.seed} {asked.user_text}".encode()).hexdigest()
    words = " ".join(digest[start : start + 5] for start in range(0, 40, 5))
    return f"{words}\n[[{'AB'[int(digest[0], 16) % 2]}]]"


def scripted(*_: object, **__: object) -> Scripted:
    return Scripted(answer)


INSTRUCTIONS = [Instruction(f"Describe place number {number}.") for number in range(6)]

PAIRS = [Pair(f"Name lake {number}.", "It is Como.", "No idea.", "AB"[number % 2]) for number in range(6)]  # type: ignore[arg-type]


def write_inputs(folder: Path) -> None:
    rows = [{"prompt": f"p{n % 8}", "response": f"r{n}" * (n % 3 + 1), "reward": n * 7 % 11} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pairs = [
        {"instruction": p.instruction, "response_a": p.response_a, "response_b": p.response_b, "label": p.label}
        for p in PAIRS
    ]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    chat = [
        {
            "prompt": [{"role": "user", "content": f"Which is better, {n}?"}],
            "completion": [{"role": "assistant", "content": f"The first answer is right. [[{'AB'[n % 2]}]]"}],
        }
        for n in range(4)
    ]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in chat))


def prepare_filter(folder: Path) -> None:
    write_inputs(folder)
    filter(folder / "rows.jsonl", folder / "out")


def work_filter(folder: Path) -> None:
    # unlike RIP's, this one has no thresholds.json
    filter(folder / "rows.jsonl", folder / "out", by=By(name="jaccard"))


def work_new_filter(folder: Path) -> None:
    filter(folder / "rows.jsonl", folder / "fresh", cuts=Cuts(min_reward=2.0))


def prepare_run(folder: Path) -> None:
    evolve("generational", folder)


def prepare_export(folder: Path) -> None:
    prepare_run(folder)
    export(folder / "run", to="trl-sft", out=folder / "x.jsonl", options=ExportOptions(split=0.2))


def work_export(folder: Path) -> None:
    export(folder / "run", to="grpo", out=folder / "x.jsonl", options=ExportOptions(split=0.5))


def prepare_responses(folder: Path) -> None:
    prepare_run(folder)
    export(folder / "run", to="prompts", out=folder / "r.parquet")


def work_responses(folder: Path) -> None:
    export(folder / "run", to="responses", out=folder / "r.parquet")


def judge_config(seed: int) -> JudgeConfig:
    return JudgeConfig.model_validate({"engine": {"kind": "null"}, "judge": {"seed": seed}})


def pairs(folder: Path, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fittest.runs.judge.pairs.backend_of", scripted)
        make_pairs(INSTRUCTIONS, judge_config(seed), folder / "pairs", variant="worse", held_out=0.3)


def annotate(folder: Path, seed: int) -> None:
    (folder / "judge.toml").write_text(f'[judge]\nseed = {seed}\nsamples = 4\n[engine]\nkind = "null"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fittest.runs.parts.engines.backend_of", scripted)
        command = ["judge", "annotate", folder / "pairs.jsonl", "--config", folder / "judge.toml", "--out"]
        result = CliRunner().invoke(main, [str(part) for part in [*command, folder / "annotated"]])
        if result.exit_code:
            raise FittestError(result.output.strip()) from result.exception


def prepare_annotate(folder: Path) -> None:
    write_inputs(folder)
    annotate(folder, 1)


def train(folder: Path, seed: int) -> None:
    config = JudgeConfig.model_validate(
        {
            "engine": {"kind": "transformers", "model": os.environ[TINY], "device": "cpu"},
            "judge": {"seed": seed},
            "train": {"epochs": 1, "rank": 2},
        }
    )
    train_once(folder / "train.jsonl", (), config, folder / "trained")


def prepare_train(folder: Path) -> None:
    write_inputs(folder)
    train(folder, 1)


JUDGMENTS = ("judgments.parquet", "train.jsonl", "preferences.jsonl", "agreement.json")
PAIR_FILES = ("pairs.jsonl", "held_out.jsonl", "rejected.jsonl", "report.md", "summary.json")

SCENES = {
    scene.name: scene
    for scene in (
        Scene(
            "run",
            lambda folder: None,
            lambda folder: evolve("generational", folder),
            (*(f"run/{name}" for name in TABLES), "run/generations/*", "run/responses/*"),
            whole=False,
        ),
        Scene(
            "confirmed run",
            lambda folder: None,
            lambda folder: evolve("generational", folder, **CONFIRMED),
            (*(f"run/{name}" for name in TABLES), "run/generations/*", "run/responses/*"),
            whole=False,
        ),
        Scene(
            "confirmed steady-state run",
            lambda folder: None,
            lambda folder: evolve("steady-state", folder, **CONFIRMED),
            (*(f"run/{name}" for name in TABLES), "run/generations/*", "run/responses/*"),
            same=False,
            whole=False,
        ),
        Scene(
            "steady-state run",
            lambda folder: None,
            lambda folder: evolve("steady-state", folder),
            (*(f"run/{name}" for name in TABLES), "run/generations/*", "run/responses/*"),
            same=False,
            whole=False,
        ),
        Scene("filter", prepare_filter, work_filter, ("out/*",)),
        Scene("first filter", write_inputs, work_new_filter, ("fresh/*",)),
        Scene("export", prepare_export, work_export, ("x*",)),
        Scene("export of responses", prepare_responses, work_responses, ("r.*",)),
        Scene(
            "judge pairs",
            lambda folder: pairs(folder, 1),
            lambda folder: pairs(folder, 2),
            tuple(f"pairs/{name}" for name in PAIR_FILES),
        ),
        Scene(
            "judge annotate",
            prepare_annotate,
            lambda folder: annotate(folder, 2),
            tuple(f"annotated/{name}" for name in JUDGMENTS),
        ),
        Scene(
            "judge train",
            prepare_train,
            lambda folder: train(folder, 2),
            ("trained/training.json", "trained/adapter"),
        ),
    )
}
