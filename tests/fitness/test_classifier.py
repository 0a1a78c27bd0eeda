"""A reward model's score is what a plain forward pass gives, for each pair alone, or it is missing with a reason."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.errors import FittestError
from evo.protocols import Reward
from evo.records import Missing
from fitness.rewards.batches import length_batches
from fitness.rewards.classifier import ADAPTERS, ClassifierReward

transformers = pytest.importorskip("transformers")

CONTEXT = 128
PAIRS = [
    ("How do I keep basil alive?", "Water it, and give it sun."),
    ("How do I keep basil alive?", ""),
    ("Name a prime.", "7 <s> 漢 🙂"),
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}"
)
GATED = '''
from dataclasses import dataclass
import torch
from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput

@dataclass
class GatedOutput(ModelOutput):
    rewards: torch.FloatTensor = None
    score: torch.FloatTensor = None
    logits: torch.FloatTensor = None

class GatedLlama(LlamaPreTrainedModel):
    """Five objectives, weighed by a gate that reads the prompt's end: ArmoRM in small."""
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.objectives = nn.Linear(config.hidden_size, 5, bias=False)
        self.gate = nn.Linear(config.hidden_size, 5, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rewards = self.objectives(hidden[:, -1])
        score = (torch.softmax(self.gate(hidden[:, 0]), dim=-1) * rewards).sum(-1)
        return GatedOutput(rewards=rewards, score=score, logits=score)
'''


def save_tokenizer(folder: Path, *, template: str | None = TEMPLATE, limit: int | None = None) -> None:
    """Bytes as tokens, with a tokenizer that would put a BOS before any text it is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<s>", "</s>"]
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    limits = {} if limit is None else {"model_max_length": limit}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template, **limits
    )
    fast.save_pretrained(folder)


def tiny_config(**keys: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1, **keys,
    )  # fmt: skip


def save_model(
    folder: Path,
    *,
    labels: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    padding: int | None = None,
) -> Any:
    """A random Llama classifier whose scores differ between texts, saved in a folder of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForSequenceClassification(tiny_config(num_labels=labels, pad_token_id=padding))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def token_ids(prompt: str, response: str) -> torch.Tensor:
    """The pair as the template writes it, tokenised by hand: specials are 0 and 1, a byte comes after them."""
    from tokenizers import pre_tokenizers

    ids = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=2)}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def plain(text: str) -> list[int]:
        return [ids[letter] for piece, _ in splitter.pre_tokenize_str(text) for letter in piece] if text else []

    response_ids = [token for part in response.split("<s>") for token in [0, *plain(part)]][1:]
    return torch.tensor([[0, *plain(f"[user]{prompt}"), 1, *plain("[assistant]"), *response_ids, 1]])


def close(expected: list[float]) -> Any:
    """Equal but for the order of summation; the scores themselves differ by more than 0.001."""
    return pytest.approx(expected, abs=1e-5)


def scores(reward: ClassifierReward, pairs: Sequence[tuple[str, str]]) -> list[float | Missing]:
    return reward.score([prompt for prompt, _ in pairs], [response for _, response in pairs])


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


@pytest.fixture(scope="module")
def skywork(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClassifierReward, Any]:
    folder = tmp_path_factory.mktemp("skywork")
    network = save_model(folder)
    return ClassifierReward(model=str(folder), device="cpu", batch_tokens=2048), network


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
    namespace: dict[str, Any] = {"__name__": "gated"}
    exec(compile(GATED, "gated", "exec"), namespace)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = namespace["GatedLlama"](tiny_config()).eval()
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


def test_adapters_take_only_what_is_one_number() -> None:
    class Output:
        def __init__(self, **fields: torch.Tensor) -> None:
            self.__dict__ |= fields

    def read(**fields: torch.Tensor) -> float | None:
        found = (adapter(Output(**fields), 1) for adapter in ADAPTERS.values())
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


@settings(max_examples=25)
@given(pairs=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_a_reward_is_that_of_its_pair_whatever_the_company(
    skywork: tuple[ClassifierReward, Any], pairs: list[tuple[str, str]]
) -> None:
    reward, _ = skywork
    together = scores(reward, pairs)
    alone = [scores(reward, [pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one == (other if isinstance(other, Missing) else close(other))
    assert scores(reward, pairs) == together


def test_the_pairs_of_a_call_share_forward_passes_of_like_lengths(
    skywork: tuple[ClassifierReward, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward, network = skywork
    lengths = [40, 3, 70, 5, 41, 300, 4]
    pairs = [("p", "x" * length) for length in lengths]
    least = token_ids("p", "").shape[1]
    assert scores(reward, pairs[:1])
    shapes: list[tuple[int, int]] = []
    passes = reward._loaded.network.forward

    def watched(**inputs: torch.Tensor) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return passes(**inputs)

    monkeypatch.setattr(reward._loaded.network, "forward", watched)
    monkeypatch.setattr(reward, "batch_tokens", 2 * (least + 41))
    found = scores(reward, pairs)
    assert shapes == [(3, least + 5), (2, least + 41), (1, least + 70)]
    assert isinstance(found[5], Missing)
    with torch.inference_mode():
        expected = [network(token_ids(*pair)).logits[0, 0].item() for pair in pairs[:5]]
    assert found[:5] == close(expected)


def test_a_cpu_scores_pair_by_pair_unless_it_is_asked_otherwise(skywork: tuple[ClassifierReward, Any]) -> None:
    reward = ClassifierReward(model=skywork[0].model, device="cpu")
    assert scores(reward, PAIRS) == [scores(reward, [pair])[0] for pair in PAIRS]
    assert reward._most_tokens() == 1


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 50)), most=st.integers(1, 120))
def test_batches_hold_everything_once_within_the_bound_and_depend_on_lengths_alone(
    lengths: list[int], most: int
) -> None:
    batches = length_batches(lengths, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths)


@pytest.mark.parametrize("end", ["", "{{ eos_token }}"])
@pytest.mark.parametrize("padding", [None, 1])
def test_padding_that_looks_like_the_end_of_a_pair_changes_no_score(
    tmp_path: Path, padding: int | None, end: str
) -> None:
    network = save_model(tmp_path, padding=padding)
    save_tokenizer(tmp_path, template="{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}" + end)
    reward = ClassifierReward(model=str(tmp_path), device="cpu", batch_tokens=2048)
    pairs = [("ab", "c" * length) for length in (0, 1, 7)] + [("ab", "\x00\x01\x02")]
    alone = [scores(reward, [pair])[0] for pair in pairs]
    rows = [reward._tokens(*pair) for pair in pairs]
    with torch.inference_mode():
        assert alone == close([network(torch.tensor([row])).logits[0, 0].item() for row in rows])
    assert scores(reward, pairs) == close(alone)  # type: ignore[arg-type]
    assert reward._loaded.takes_batches


def test_a_model_that_reads_padding_is_asked_pair_by_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path)
    reward = ClassifierReward(model=str(tmp_path), device="cpu", batch_tokens=2048)
    network, passes = reward._loaded.network, reward._loaded.network.forward

    def last_position(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        network.config.pad_token_id = None
        rows = zip(input_ids, attention_mask, strict=True)
        outputs = [passes(input_ids=row[None], attention_mask=mask[None]) for row, mask in rows]
        return type(outputs[0])(logits=torch.cat([output.logits for output in outputs]))

    monkeypatch.setattr(network, "forward", last_position)
    assert not reward._loaded.takes_batches
    together = scores(reward, PAIRS)
    assert together == [scores(reward, [pair])[0] for pair in PAIRS]


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
            "from fitness.rewards.classifier import ClassifierReward\n"
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
        monkeypatch.setattr("fitness.rewards.classifier.torch_device", lambda device: torch.device("cuda"))
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
