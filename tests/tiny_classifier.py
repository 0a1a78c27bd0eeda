"""Reward models of a few hundred random weights in the ways of Skywork and ArmoRM, and what their scores should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fittest.evo.records import Missing
from fittest.fitness.rewards.classifier import ClassifierReward

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
    """The pair as the template writes it, tokenised by hand: specials are 0 and 1, a byte comes after them.

    A special token in a response is read as text, with a space in it.
    """
    from tokenizers import pre_tokenizers

    ids = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=2)}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def plain(text: str) -> list[int]:
        return [ids[letter] for piece, _ in splitter.pre_tokenize_str(text) for letter in piece] if text else []

    return torch.tensor(
        [[0, *plain(f"[user]{prompt}"), 1, *plain("[assistant]"), *plain(response.replace("<s>", "< s>")), 1]]
    )


def close(expected: list[float]) -> Any:
    """Equal but for the order of summation; the scores themselves differ by more than 0.001."""
    return pytest.approx(expected, abs=1e-5)


def scores(reward: ClassifierReward, pairs: Sequence[tuple[str, str]]) -> list[float | Missing]:
    return reward.score([prompt for prompt, _ in pairs], [response for _, response in pairs])
