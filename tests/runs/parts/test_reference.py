"""`fittest export --with-reference` asks the run's engine once, keeps what it said, and names engines that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.evo.records import Message
from fittest.fitness.reference.in_transformers import TransformersReference
from fittest.fitness.reference.pairs import AnsweredPair
from fittest.runs.cli import main
from fittest.runs.parts.reference import reference_of
from tests.runs.output.exported_run import frame, survivor, write_run
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

SURVIVORS = frame(survivor("a", prompt="Count to ten. "), survivor("b", chosen="x" * 5000), survivor("c"))


def exported(run: Path, out: Path) -> Any:
    return CliRunner().invoke(
        main, ["export", str(run), "--to", "trl-preference", "--out", str(out), "--with-reference"]
    )


def test_pairs_get_the_log_probabilities_of_the_policy_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_model(tmp_path / "model")
    run = write_run(tmp_path / "run", SURVIVORS, kind="transformers", model=str(model), device="cpu")
    out = tmp_path / "x.jsonl"
    result = exported(run, out)
    assert result.exit_code == 0, result.output
    assert "1 survivors gave no row (1: too long for the model that gives log-probabilities)" in result.output
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert (first["prompt_id"], second["prompt_id"]) == ("a", "c")
    pair = AnsweredPair((Message("user", "Count to ten. "),), "good a", "bad a")
    (numbers,) = TransformersReference(Transformers(model=model, device="cpu")).log_probabilities([pair])
    assert numbers == (first["ref_chosen_logps"], first["ref_rejected_logps"])

    before = out.read_bytes()

    def asked_again(*_: object) -> None:
        raise AssertionError("everything is known")

    monkeypatch.setattr(TransformersReference, "log_probabilities", asked_again)
    assert exported(run, out).exit_code == 0
    assert out.read_bytes() == before


def test_a_folder_without_a_run_has_no_engine(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match=r"--with-reference asks the engine of a run, .* holds no run\.toml"):
        reference_of(tmp_path)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"kind": "null"}, "the engine 'null' gives no"),
        ({"kind": "llamacpp", "adapter": "a.gguf"}, "the engine 'llamacpp' with an adapter gives no"),
    ],
)
def test_an_engine_that_gives_none_is_named(tmp_path: Path, engine: dict[str, str], words: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.gguf").touch()
    run = write_run(tmp_path / "run", SURVIVORS, **engine)
    with pytest.raises(FittestError, match=words):
        reference_of(run)


@pytest.mark.embedded
def test_the_embedded_model_gives_them_too(smollm2: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SURVIVORS, kind="llamacpp", model="smollm2-135m")
    pair = AnsweredPair((Message("user", "What is the capital of France?"),), "Paris.", "Norwegian trousers.")
    (numbers,) = reference_of(run).log_probabilities([pair])
    assert numbers is not None
    assert numbers.rejected < numbers.chosen < 0
