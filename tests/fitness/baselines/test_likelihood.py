"""Perplexity and IFD against a forward pass written here, on a model made here; and on the real one."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fittest.evo.errors import FittestError
from fittest.fitness.baselines.likelihood import TokenLikelihood, ifd, perplexity
from fittest.fitness.baselines.transformers_likelihood import TransformersLikelihood

SPECIAL = ["<unk>", "<s>", "<user>", "<assistant>"]
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *"abcdefghijklmnopqrstuvwxyz ?.,!"])}
CHAT_TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}<assistant>"
CONTEXT = 48
PAIRS = [("why?", "because it is."), ("say a", "a"), ("name a sea", "the north sea, i think!"), ("", "no prompt")]


def make_model(folder: Path, *, begins: bool = False, chat: bool = True) -> Path:
    """A random Llama of 30,000 weights that reads characters; `begins`: its tokenizer opens every text with <s>."""
    characters = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    if begins:
        characters.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, bos_token="<s>", unk_token="<unk>", additional_special_tokens=SPECIAL[2:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=CONTEXT, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert isinstance(model, LlamaForCausalLM)
    return model.eval()


@pytest.fixture
def likelihood(folder: Path) -> TransformersLikelihood:
    return TransformersLikelihood(folder, device="cpu")


def plain_loss(model: LlamaForCausalLM, opening: list[str], text: str) -> float:
    """Loss per character, token after token, each from a forward pass over what stands before it."""
    total, count = 0.0, 0
    for length in range(0 if opening else 1, len(text)):
        before = [VOCABULARY[token] for token in [*opening, *text[:length]]]
        with torch.no_grad():
            scores = model(torch.tensor([before])).logits[0, -1]
        total -= (scores[VOCABULARY[text[length]]] - scores.exp().sum().log()).item()
        count += 1
    return total / count


@pytest.mark.parametrize(("prompt", "answer"), PAIRS)
def test_perplexity_counts_the_answer_alone_and_reads_the_prompt(
    likelihood: TransformersLikelihood, plain: LlamaForCausalLM, prompt: str, answer: str
) -> None:
    expected = math.exp(plain_loss(plain, ["<user>", *prompt, "<assistant>"], answer))
    assert perplexity(likelihood, [prompt], [answer]) == pytest.approx([expected], rel=1e-4)


def test_ifd_is_the_loss_with_the_prompt_over_the_loss_without(
    likelihood: TransformersLikelihood, plain: LlamaForCausalLM
) -> None:
    longer = [(prompt, answer) for prompt, answer in PAIRS if len(answer) > 1]
    expected = [
        plain_loss(plain, ["<user>", *prompt, "<assistant>"], answer) / plain_loss(plain, [], answer)
        for prompt, answer in longer
    ]
    prompts, answers = zip(*longer, strict=True)
    assert ifd(likelihood, prompts, answers) == pytest.approx(expected, rel=1e-4)


def test_a_tokenizer_that_begins_texts_predicts_the_first_token_too(tmp_path: Path, plain: LlamaForCausalLM) -> None:
    beginning = TransformersLikelihood(make_model(tmp_path, begins=True), device="cpu")
    answers = ["a", "the north sea"]
    expected = [plain_loss(plain, ["<s>"], answer) for answer in answers]
    assert beginning.losses([None, None], answers) == pytest.approx(expected, rel=1e-4)


def test_nothing_to_predict_is_missing(likelihood: TransformersLikelihood) -> None:
    assert np.isnan(perplexity(likelihood, ["a", "b"], [None, ""])).all()
    assert np.isnan(ifd(likelihood, ["a", "b", "c"], [None, "", "x"])).all()
    assert np.isnan(likelihood.losses([None, "a"], ["x", ""])).all()
    assert perplexity(likelihood, [], []).shape == (0,)


def test_a_text_is_measured_whole_or_not_at_all(likelihood: TransformersLikelihood) -> None:
    fits = "a" * (CONTEXT - len("<q>"))
    losses = likelihood.losses(["q", "q", None, None, "q"], [fits, fits + "a", "a" * CONTEXT, "b" * 49, fits + "a"])
    assert np.isfinite(losses).tolist() == [True, False, True, False, False]
    assert likelihood.too_long == 2


def test_a_loss_does_not_depend_on_its_company(folder: Path) -> None:
    together = TransformersLikelihood(folder, device="cpu").losses(*zip(*PAIRS, strict=True))
    for order in itertools.permutations(range(len(PAIRS)), 2):
        fresh = TransformersLikelihood(folder, device="cpu")
        losses = fresh.losses([PAIRS[i][0] for i in order], [PAIRS[i][1] for i in order])
        assert np.array_equal(losses, together[list(order)])


def test_each_pair_is_measured_once(likelihood: TransformersLikelihood, monkeypatch: pytest.MonkeyPatch) -> None:
    first = likelihood.losses(["a", "a"], ["some text", "some text"])
    monkeypatch.setattr(likelihood, "_measure", lambda *_: pytest.fail("measured again"))
    assert np.array_equal(likelihood.losses(["a", "a"], ["some text", "some text"]), first)


def test_responses_that_are_missing_cost_nothing() -> None:
    class Counting:
        fingerprint = "counting"

        def __init__(self) -> None:
            self.asked: list[tuple[str | None, str]] = []

        def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
            self.asked += zip(contexts, texts, strict=True)
            return np.array([2.0 if context is None else 1.0 for context in contexts])

    model = Counting()
    as_protocol: TokenLikelihood = model
    ratios = ifd(as_protocol, ["p", "q", "r"], ["x", None, ""])
    assert ratios[0] == 0.5
    assert np.isnan(ratios[1:]).all()
    assert model.asked == [("p", "x"), (None, "x")]


def test_the_fingerprint_follows_weights_wording_and_precision(tmp_path: Path, folder: Path) -> None:
    same = TransformersLikelihood(make_model(tmp_path / "same"))
    changed = make_model(tmp_path / "changed")
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("<assistant>", "<assistant> "), encoding="utf-8")
    models_found = [same, TransformersLikelihood(changed), TransformersLikelihood(folder, dtype="bfloat16")]
    assert same.fingerprint == TransformersLikelihood(folder).fingerprint
    assert len({model.fingerprint for model in models_found}) == 3


def test_a_name_on_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    commit, repository = "0123456789" * 4, tmp_path / "hub" / "models--tiny--model"
    make_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    # the hub's settings are read once, when its library is imported
    program = (
        "from fittest.fitness.baselines.transformers_likelihood import TransformersLikelihood\n"
        "model = TransformersLikelihood('tiny/model', device='cpu')\n"
        "print(model.fingerprint, model.losses(['why?'], ['because']).tolist())"
    )
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    local = TransformersLikelihood(repository / "snapshots" / commit, device="cpu").losses(["why?"], ["because"])
    assert done.stdout.split(" ", 1) == [f"transformers:tiny/model@{commit}:float32", f"{local.tolist()}\n"]


def test_a_model_without_a_chat_template_cannot_take_a_prompt(tmp_path: Path) -> None:
    base = TransformersLikelihood(make_model(tmp_path, chat=False), device="cpu")
    assert np.isfinite(base.losses([None], ["some text"])).all()
    with pytest.raises(FittestError, match=rf"{tmp_path}: the tokenizer has no chat template"):
        base.losses(["prompt"], ["some text"])


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUX" + bytes(100))
    for path in (tmp_path, broken):
        with pytest.raises(FittestError, match=rf"{path}: not loaded as a (tokenizer|language model)"):
            TransformersLikelihood(path).losses([None], ["text"])


@pytest.mark.embedded
@pytest.mark.slow
def test_smollm2_finds_english_likelier_than_its_words_in_disorder(
    smollm2: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = "How do I keep basil alive on a window sill?"
    answer = (
        "To keep basil alive on a window sill, place the pot where it gets at least six hours of sunlight a day. "
        "Water the soil when the top feels dry, and make sure that the pot has holes for drainage."
    )
    words = answer.split()
    random.Random(3).shuffle(words)
    model = TransformersLikelihood(smollm2, device="cpu")
    fluent, shuffled = perplexity(model, [prompt, prompt], [answer, " ".join(words)])
    assert 1 < 20 * fluent < shuffled
    elsewhere = "Who was the first president of France?"
    asked, unasked = ifd(model, [prompt, elsewhere], [answer, answer])
    assert 0 < asked < min(unasked, 1)
    assert capfd.readouterr() == ("", "")
