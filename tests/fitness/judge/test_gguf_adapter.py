"""A judge's adapter in llama.cpp gives the verdict probabilities that it has in transformers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.evo.backends.transformers import Transformers
from fittest.evo.errors import FittestError
from fittest.fitness.judge.gguf_adapter import _reordered, convert_adapter
from fittest.fitness.judge.judging import conversation
from fittest.fitness.judge.likelihood import verdict_log_odds
from fittest.fitness.judge.pair import Pair

PAIR = Pair("Name a sea.", "The Baltic.", "Lake Geneva.", "A")
HIDDEN, HEADS, KEYS, LAYERS = 64, 4, 2, 2


def write_model(path: Path, smollm2: Path) -> Path:
    """A random Llama in float32, with the tokenizer of a real one."""
    import gguf

    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(str(path), "llama")
    reader = gguf.GGUFReader(str(smollm2))
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            more = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=more)
    tokens = len(reader.fields["tokenizer.ggml.tokens"].contents())
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(tokens)
    shapes = {"token_embd": (tokens, HIDDEN), "output": (tokens, HIDDEN)}
    for layer in range(LAYERS):
        small = HIDDEN // HEADS * KEYS
        for part, shape in {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (small, HIDDEN), "attn_v": (small, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (96, HIDDEN), "ffn_up": (96, HIDDEN),
            "ffn_down": (HIDDEN, 96),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{part}"] = shape
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.2, shape).astype(np.float32))
    for name in (
        "output_norm",
        *(f"blk.{layer}.{part}" for layer in range(LAYERS) for part in ("attn_norm", "ffn_norm")),
    ):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(folder: Path, model: Path) -> Path:
    """A random adapter on every linear layer, strong enough to change what comes out."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    network = get_peft_model(Transformers(model=model, device="cpu").network, config)
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.15)
    network.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def llamacpp_log_odds(engine: LlamaCpp, tokens: list[int], a: int, b: int) -> float:
    """Log P(a) − log P(b) of the next token, as llama.cpp has it."""
    found: list[dict[str, Any]] = []

    async def body() -> None:
        async with engine:
            request = {"prompt": tokens, "n_predict": 1, "max_tokens": 1, "logprobs": 60000, "temperature": 1.0}
            engine._server.handle_completions({**request, "stream": False}, found.append)

    asyncio.run(body())
    (choice,) = found[0]["choices"]
    (place,) = choice["logprobs"]["content"]
    chances = {entry["id"]: entry["logprob"] for entry in place["top_logprobs"]}
    return float(chances[a] - chances[b])


@pytest.mark.embedded
@pytest.mark.training
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_llamacpp_and_transformers_agree_on_verdict_probabilities(smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    model = write_model(tmp_path / "tiny.gguf", smollm2)
    adapter = write_adapter(tmp_path / "adapter", model)
    plain, adapted = Transformers(model=model, device="cpu"), Transformers(model=model, adapter=adapter, device="cpu")
    assert convert_adapter(adapter, adapted.network.config, tmp_path / "adapter.gguf") == 7 * LAYERS
    messages = conversation(PAIR, "AB")
    ends = [plain.tokens(messages, begun=f"[[{side}]]") for side in "AB"]
    place = next(place for place, (one, two) in enumerate(zip(*ends, strict=True)) if one != two)
    expected = [verdict_log_odds(one.network, plain.tokenizer, messages) for one in (plain, adapted)]
    assert abs(expected[1] - expected[0]) > 0.05
    for file, odds in ((None, expected[0]), (tmp_path / "adapter.gguf", expected[1])):
        engine = LlamaCpp(model=model, slots=1, adapter=file)
        found = llamacpp_log_odds(engine, ends[0][:place], ends[0][place], ends[1][place])
        assert found == pytest.approx(odds, abs=0.02)
    assert LlamaCpp(model=model).fingerprint != LlamaCpp(model=model, adapter=tmp_path / "adapter.gguf").fingerprint


def test_rows_of_a_head_go_from_halves_to_pairs() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert _reordered(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert _reordered(rows, None) is rows


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    with pytest.raises(FittestError, match="model type 'gpt2'; expected llama, mistral"):
        convert_adapter(tmp_path, SimpleNamespace(model_type="gpt2"), tmp_path / "out.gguf")
    with pytest.raises(FittestError, match="not an adapter that PEFT wrote"):
        convert_adapter(tmp_path, SimpleNamespace(model_type="llama"), tmp_path / "out.gguf")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"use_rslora": True}))
    with pytest.raises(FittestError, match="not an adapter"):
        convert_adapter(tmp_path, SimpleNamespace(model_type="llama"), tmp_path / "out.gguf")


def test_an_adapter_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(FittestError, match=r"engine.adapter: no GGUF file at .*none.gguf"):
        LlamaCpp(model=tmp_path / "model.gguf", adapter=tmp_path / "none.gguf")
