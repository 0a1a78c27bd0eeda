"""Training really changes verdicts, on the judgment's tokens alone, from the seed model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.evo.pretrained.loading import adapter_id
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.annotation import Annotated, Judgment, contrasting_rows, training_rows
from fittest.fitness.judge.best_epoch import _held_out_accuracy
from fittest.fitness.judge.likelihood import TransformersVerdicts
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.training import NothingToLearnError, TrainingSettings, train_judge
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.training

pytest.importorskip("trl", reason="training needs trl and peft")
pytest.importorskip("peft", reason="training needs trl and peft")

PAIRS = [
    Pair(f"Task {number}.", *(("good", "bad") if number % 2 else ("bad", "good")), "A" if number % 2 else "B")
    for number in range(6)
]
RIGHT = {"A": Judgment("[[A]]", "A"), "B": Judgment("[[B]]", "B")}
ROWS = [Annotated.draw(pair, list(RIGHT.values()), seeds=SeedTree(0), iteration=1) for pair in PAIRS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def quick(**changes: Any) -> TrainingSettings:
    chosen = {"learning_rate": 1e-2, "epochs": 8, "patience": 8, "batch_size": 3, "device": "cpu"} | changes
    return TrainingSettings(**chosen)


def margins(engine: Transformers) -> list[float]:
    """Log-odds of the right verdict on each training pair."""
    model = TransformersVerdicts(engine)
    return [model.log_odds(pair, "AB") * (1 if pair.label == "A" else -1) for pair in PAIRS]


def test_an_adapter_is_the_same_in_whatever_order_its_modules_are_listed(tiny: Path, tmp_path: Path) -> None:
    train_judge(training_rows(ROWS), seed_model=tiny, out=tmp_path, settings=quick(epochs=1))
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    before = adapter_id(tmp_path / "adapter")
    file.write_text(json.dumps({**config, "target_modules": config["target_modules"][::-1]}))
    assert adapter_id(tmp_path / "adapter") == before
    file.write_text(json.dumps({**config, "r": 1}))
    assert adapter_id(tmp_path / "adapter") != before


def test_nothing_longer_than_the_model_reads_is_trained_on_or_measured(tmp_path: Path) -> None:
    short = make_tiny_model(tmp_path / "model", context=100)
    with pytest.raises(NothingToLearnError, match="none of up to 100 tokens"):
        train_judge(training_rows(ROWS), seed_model=short, out=tmp_path, settings=quick())
    engine = Transformers(model=short, device="cpu")
    assert _held_out_accuracy(engine.network, engine.tokenizer, PAIRS) == 0


@pytest.mark.parametrize(("objective", "method"), [("sft", "lora"), ("sft", "full"), ("dpo", "lora")])
def test_training_moves_verdict_probabilities_towards_the_labels(
    tiny: Path, tmp_path: Path, objective: Any, method: Any
) -> None:
    rows = contrasting_rows(ROWS) if objective == "dpo" else training_rows(ROWS)
    rate = {"lora": 1e-2, "full": 3e-3}[method]
    found = train_judge(
        rows, seed_model=tiny, out=tmp_path, settings=quick(objective=objective, method=method, learning_rate=rate)
    )
    trained = (
        Transformers(model=tiny, adapter=tmp_path / "adapter", device="cpu")
        if method == "lora"
        else Transformers(model=tmp_path / "model", device="cpu")
    )
    before, after = margins(Transformers(model=tiny, device="cpu")), margins(trained)
    assert np.mean(after) > np.mean(before) + 1
    assert sum(margin > 0 for margin in after) > sum(margin > 0 for margin in before)
    assert found["examples"] == 6
    assert found["steps"] == 16
    assert found["losses"][-1] < found["losses"][0]


def test_the_loss_is_that_of_the_judgment_alone(tiny: Path, tmp_path: Path) -> None:
    (row,) = training_rows(ROWS[1:2])
    found = train_judge([row], seed_model=tiny, out=tmp_path, settings=quick(epochs=1))
    engine = Transformers(model=tiny, device="cpu")
    asked = f"<user>{row['prompt'][0]['content']}</s><assistant>"
    tokens = engine.tokenizer(asked + "[[A]]</s>", add_special_tokens=False).input_ids
    begin = len(engine.tokenizer(asked, add_special_tokens=False).input_ids)
    with torch.no_grad():
        scores = torch.log_softmax(engine.network(torch.tensor([tokens])).logits[0].double(), -1)
    expected = -np.mean([scores[place - 1, tokens[place]].item() for place in range(begin, len(tokens))])
    assert found["losses"] == [pytest.approx(expected, rel=1e-3)]


def test_the_best_epoch_is_kept_and_patience_ends_training(tiny: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = train_judge(
        training_rows(ROWS), seed_model=tiny, out=tmp_path, settings=quick(patience=2, epochs=30),
        held_out=PAIRS[:4], told=told.append,
    )  # fmt: skip
    accuracies = found["held_out_accuracy"]
    epochs = len(accuracies) - 1
    assert found["best_epoch"] == 1 + int(np.argmax(accuracies[1:]))
    assert epochs == min(30, found["best_epoch"] + 2)
    assert found["steps"] == 2 * epochs
    assert len(told) == epochs + 1


def test_the_same_rows_and_seed_train_the_same_adapter(tiny: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train_judge(training_rows(ROWS), seed_model=tiny, out=tmp_path / name, settings=quick(epochs=1, seed=seed))
        weights.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_examples_that_are_too_long_are_left_out_not_cut(tiny: Path, tmp_path: Path) -> None:
    rows = training_rows(ROWS)
    rows[0]["completion"][0]["content"] += "x" * 3000
    found = train_judge(rows, seed_model=tiny, out=tmp_path, settings=quick(epochs=1, max_length=2000))
    assert (found["examples"], found["too_long"]) == (5, 1)
    with pytest.raises(FittestError, match="nothing to train on: 6 examples, none of up to 10 tokens"):
        train_judge(rows, seed_model=tiny, out=tmp_path, settings=quick(max_length=10))
