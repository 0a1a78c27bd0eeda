"""A reward model's score is what a plain forward pass gives, for each pair alone, or it is missing with a reason."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fittest.evo.errors import FittestError
from fittest.evo.protocols import Reward
from fittest.evo.records import Missing
from fittest.fitness.rewards.classifier import _READERS, ClassifierReward
from tests.tiny_classifier import (
    CONTEXT,
    GATED,
    PAIRS,
    close,
    save_model,
    save_tokenizer,
    scores,
    tiny_config,
    token_ids,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """What transformers logs and draws; its own log handler writes where stderr was when it was imported."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    listener = Listener()
    logging.getLogger("transformers").addHandler(listener)
    yield lines
    logging.getLogger("transformers").removeHandler(listener)
    assert capfd.readouterr() == ("", "")


def test_one_label_is_scored_as_a_plain_forward_pass_does(skywork: tuple[ClassifierReward, Any]) -> None:
    reward, network = skywork
    with torch.inference_mode():
        expected = [network(token_ids(*pair)).logits[0, 0].item() for pair in PAIRS]
    assert len({round(score, 3) for score in expected}) == 3
    assert scores(reward, PAIRS) == close(expected)


def test_a_score_of_the_models_own_is_taken_before_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "armorm"
    folder.mkdir()
    (folder / "modeling_gated.py").write_text(GATED, encoding="utf-8")
    # older transformers look for the file of a model's module, as it is when they load the module themselves
    gated = ModuleType("gated")
    gated.__file__ = str(folder / "modeling_gated.py")
    monkeypatch.setitem(sys.modules, "gated", gated)
    exec(compile(GATED, "gated", "exec"), vars(gated))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = gated.GatedLlama(tiny_config()).eval()
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    network.save_pretrained(folder)
    save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_gated.GatedLlama"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(FittestError, match="brings code of its own; if you trust it, set trust_remote_code = true"):
        scores(ClassifierReward(model=str(folder), device="cpu"), PAIRS)

    with torch.inference_mode():
        expected = []
        for pair in PAIRS:
            hidden = network.model(input_ids=token_ids(*pair)).last_hidden_state[0]
            weights = torch.softmax(network.gate.weight @ hidden[0], dim=0)
            expected.append(float(weights @ (network.objectives.weight @ hidden[-1])))
    assert len({round(score, 3) for score in expected}) == 3
    trusting = ClassifierReward(model=str(folder), device="cpu", trust_remote_code=True)
    assert scores(trusting, PAIRS) == close(expected)


def test_readers_take_only_what_is_one_number() -> None:
    class Output:
        def __init__(self, **fields: torch.Tensor) -> None:
            self.__dict__ |= fields

    def read(**fields: torch.Tensor) -> float | None:
        found = (reader(Output(**fields), 1) for reader in _READERS.values())
        return next((float(reward) for reward in found if reward is not None), None)

    assert read(score=torch.tensor([2.0]), logits=torch.tensor([[3.0]])) == 2.0
    assert read(score=torch.tensor(2.0)) == 2.0
    assert read(logits=torch.tensor([[3.0]])) == 3.0
    assert read(score=torch.tensor([1.0, 2.0]), logits=torch.tensor([[3.0]])) == 3.0
    assert read(logits=torch.tensor([[3.0, 4.0]])) is None
    assert read() is None


def test_several_labels_and_no_score_are_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, labels=3)
    with pytest.raises(FittestError, match=rf"{tmp_path.name} gives 3 labels and no score; expected .* one label"):
        scores(ClassifierReward(model=str(tmp_path), device="cpu"), PAIRS)


def test_a_pair_may_fill_the_context_but_not_exceed_it(
    skywork: tuple[ClassifierReward, Any], printed: list[str]
) -> None:
    reward, network = skywork
    room = CONTEXT - token_ids("p", "").shape[1]
    full, over, short = ("p", "x" * room), ("p", "x" * (room + 1)), ("p", "x")
    found = scores(reward, [full, over, short])
    with torch.inference_mode():
        expected = [network(token_ids(*pair)).logits[0, 0].item() for pair in (full, short)]
    assert [found[0], found[2]] == close(expected)
    assert found[1] == Missing(f"pair of {CONTEXT + 1} tokens is longer than the reward model's {CONTEXT}")
    assert printed == []


@pytest.mark.parametrize(("limit", "context"), [(60, 60), (1000, CONTEXT), (10**30, CONTEXT)])
def test_the_smaller_sane_limit_of_tokenizer_and_network_is_the_context(
    tmp_path: Path, limit: int, context: int, printed: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path)
    save_tokenizer(tmp_path, limit=limit)
    capfd.readouterr()
    (found,) = scores(ClassifierReward(model=str(tmp_path), device="cpu"), [("p", "x" * 300)])
    assert found == Missing(
        f"pair of {token_ids('p', 'x' * 300).shape[1]} tokens is longer than the reward model's {context}"
    )
    assert printed == []


def test_not_a_number_comes_back_as_it_is(tmp_path: Path) -> None:
    network = save_model(tmp_path)
    torch.nn.init.constant_(network.score.weight, math.nan)
    network.save_pretrained(tmp_path)
    (found,) = scores(ClassifierReward(model=str(tmp_path), device="cpu"), PAIRS[:1])
    assert isinstance(found, float)
    assert math.isnan(found)


def test_half_precision_is_computed_in_full_precision_on_a_cpu(tmp_path: Path) -> None:
    network = save_model(tmp_path, dtype=torch.bfloat16)
    exact = transformers.LlamaForSequenceClassification(tiny_config(num_labels=1)).eval()
    exact.load_state_dict(network.state_dict())
    with torch.inference_mode():
        half, full = ([model(token_ids(*pair)).logits[0, 0].item() for pair in PAIRS] for model in (network, exact))
    assert half != full
    assert scores(ClassifierReward(model=str(tmp_path), device="cpu"), PAIRS) == close(full)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_takes_the_checkpoints_own_precision(tmp_path: Path) -> None:
    network = save_model(tmp_path, dtype=torch.bfloat16).to("cuda")
    with torch.inference_mode():
        expected = [network(token_ids(*pair).to("cuda")).logits[0, 0].item() for pair in PAIRS]
    assert scores(ClassifierReward(model=str(tmp_path)), PAIRS) == pytest.approx(expected, abs=0.02)


class TestFingerprint:
    def fingerprint(self, folder: Path) -> str:
        return ClassifierReward(model=str(folder)).fingerprint

    def test_it_follows_what_the_scores_depend_on_and_not_where_that_lies(self, tmp_path: Path) -> None:
        original = tmp_path / "a"
        save_model(original)
        shutil.copytree(original, tmp_path / "b")
        (tmp_path / "b" / "README.md").write_text("About this model", encoding="utf-8")
        assert self.fingerprint(tmp_path / "b") == self.fingerprint(original)
        seen = {self.fingerprint(original)}
        for number, name in enumerate(
            ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"], 1
        ):
            copy = tmp_path / f"changed-{number}"
            shutil.copytree(original, copy)
            with (copy / name).open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b" ")
            seen.add(self.fingerprint(copy))
            assert len(seen) == number + 1

    def test_the_weights_are_not_loaded_for_it(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(2**27)
        program = (
            "import sys, tracemalloc\n"
            "from fittest.fitness.rewards.classifier import ClassifierReward\n"
            "tracemalloc.start()\n"
            "ClassifierReward(model=sys.argv[1], device='cpu').fingerprint\n"
            "print(tracemalloc.get_traced_memory()[1], *{'torch', 'transformers', 'safetensors'} & set(sys.modules))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.stderr == ""
        peak, *imported = done.stdout.split()
        assert int(peak) < 2**27 / 10
        assert imported == []

    def test_precision_is_part_of_it_unless_it_is_float32(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_model(tmp_path, dtype=torch.bfloat16)

        def fingerprint(**settings: str) -> str:
            return ClassifierReward(model=str(tmp_path), **settings).fingerprint  # type: ignore[arg-type]

        single = fingerprint(device="cpu")
        assert fingerprint(device="cuda", dtype="float32") == single
        assert fingerprint(device="cpu", dtype="float16") == f"{single}:float16"
        monkeypatch.setattr("fittest.fitness.rewards.classifier.torch_device", lambda device: torch.device("cuda"))
        assert fingerprint() == fingerprint(device="cuda") == f"{single}:bfloat16"

    def test_of_a_hub_model_it_names_the_commit_that_is_then_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "models--people--tiny"
        network = save_model(repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        reward: Reward = ClassifierReward(model="people/tiny", device="cpu")
        assert reward.fingerprint == f"classifier:people/tiny@{commit}"
        with torch.inference_mode():
            assert reward.score(["p"], ["r"]) == close([network(token_ids("p", "r")).logits[0, 0].item()])

    def test_a_hub_model_that_is_not_to_be_had_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            FittestError, match="people/absent is neither a folder here nor a model that the hub gives"
        ):
            _ = ClassifierReward(model="people/absent").fingerprint


class TestRefusals:
    def message(self, folder: Path) -> str:
        with pytest.raises(FittestError) as caught:
            scores(ClassifierReward(model=str(folder), device="cpu"), PAIRS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("model", ["/no/such/folder", "./nowhere", "~/no-such-model", "models/reward/small"])
    def test_a_folder_that_is_not_there(self, model: str) -> None:
        with pytest.raises(FittestError, match=r"reward\.model: no folder at .*(folder|nowhere|model|small)$"):
            ClassifierReward(model=model)

    def test_transformers_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(FittestError, match=r'needs transformers: pip install "fittest\[embedded\]"'):
            ClassifierReward(model=str(tmp_path))

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(FittestError, match=r"no \*\.safetensors found; expected the folder of a reward model"):
            _ = ClassifierReward(model=str(tmp_path)).fingerprint
        assert self.message(tmp_path).startswith(f"{tmp_path / 'config.json'}: not found; expected the config.json")

    def test_a_language_model_is_not_taken_for_a_reward_model(
        self, tmp_path: Path, printed: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        transformers.LlamaForCausalLM(tiny_config()).save_pretrained(tmp_path)
        save_tokenizer(tmp_path)
        capfd.readouterr()
        assert self.message(tmp_path).endswith("is not a sequence classification model: its weights lack score.weight")
        assert printed == []

    def test_a_model_of_another_kind(self, tmp_path: Path) -> None:
        save_model(tmp_path)
        config = {"model_type": "vit", "architectures": ["ViTModel"]}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        assert "cannot be loaded as a sequence classification model: " in self.message(tmp_path)

    def test_a_tokenizer_without_a_chat_template(self, tmp_path: Path) -> None:
        save_model(tmp_path)
        (tmp_path / "chat_template.jinja").unlink()
        save_tokenizer(tmp_path, template=None)
        assert self.message(tmp_path) == f"reward.model: the tokenizer of {tmp_path} has no chat template"
