"""A random causal model of 30,000 weights, made in a second, for tests of everything that trains or judges.

It reads characters, and a few whole phrases as single tokens: labels and verdicts come up by chance, so that every
step has something to work on.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<user>", "<assistant>")
PHRASES = (
    "[[", "]]", "\nCategory: coding\nComplexity: 4\nLength: one paragraph\n",
    "\nCategory: open qa\nComplexity: 7\nLength: one sentence\n", "The first answer is right. ",
    "The second answer is right. ", "Name a lake in the north.", "Count to ten. ", "Write a poem. ", "</second>",
)  # fmt: skip
LETTERS = string.ascii_letters + string.digits + string.punctuation + " \n"
CHAT = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny_model(folder: Path, *, context: int = 4096, seed: int = 5) -> Path:
    """Write model and tokenizer; what it says is random, and the same for the same seed."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *PHRASES, *LETTERS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    phrases = "|".join("".join(f"\\{c}" if c in string.punctuation else c for c in phrase) for phrase in PHRASES)
    words.pre_tokenizer = pre_tokenizers.Split(Regex(f"{phrases}|[\\s\\S]"), "isolated")
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>",
        additional_special_tokens=list(SPECIAL[3:]),
    )  # fmt: skip
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, initializer_range=0.3, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
