"""Models that lie, that are damaged, or that bring code: folders whose code leaves a canary, and GGUF files."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import tiny_classifier

CANARY = "canary"


class _Bomb:
    """Unpickled, it leaves the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


def code(canary: Path) -> str:
    """A module that leaves the canary when it is imported, and has whatever class is asked for."""
    leave = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    return leave + "def __getattr__(name):\n    return type(name, (), {})\n"


def _edit(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | keys), encoding="utf-8")


def plain(folder: Path, canary: Path) -> None:
    """A model that does no harm."""
    tiny_classifier.save_model(folder)


def own_class(folder: Path, canary: Path) -> None:
    """The configuration names a class of the folder's own for every purpose."""
    plain(folder, canary)
    (folder / "modeling_evil.py").write_text(code(canary), encoding="utf-8")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    _edit(folder / "config.json", auto_map=dict.fromkeys(names, "modeling_evil.Evil"), model_type="evil")


def own_class_of_a_known_type(folder: Path, canary: Path) -> None:
    """The same, of a type that transformers has as well."""
    own_class(folder, canary)
    _edit(folder / "config.json", model_type="llama")


def own_tokenizer(folder: Path, canary: Path) -> None:
    """The tokenizer is a class of the folder's own."""
    plain(folder, canary)
    (folder / "tokenization_evil.py").write_text(code(canary), encoding="utf-8")
    auto_map = {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}
    _edit(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Evil")


def pickled_weights(folder: Path, canary: Path) -> None:
    """The weights are a pickle."""
    plain(folder, canary)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Bomb(canary)}))


def pickled_adapter(folder: Path, canary: Path) -> None:
    """An adapter whose weights are a pickle."""
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"weight": _Bomb(canary)}))


def embedder(folder: Path, canary: Path) -> None:
    """An embedder whose one module is the folder's own."""
    plain(folder, canary)
    (folder / "evil.py").write_text(code(canary), encoding="utf-8")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def pickled_embedder(folder: Path, canary: Path) -> None:
    """An embedder whose weights are a pickle."""
    pickled_weights(folder, canary)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def broken_safetensors(folder: Path, canary: Path) -> None:
    """Weights whose header claims an exabyte."""
    plain(folder, canary)
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8:])


def nested_config(folder: Path, canary: Path) -> None:
    """A configuration that is nested by thousands."""
    plain(folder, canary)
    (folder / "config.json").write_text("[" * 100_000, encoding="utf-8")


ENDLESS_TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a range that only llama.cpp takes": "{% for a in range(99999999999) %}{% endfor %}",
    "an endless text": "{% for a in range(99999) %}{{ 'twenty characters...' }}{% endfor %}",
    "a text of 10 GB": "{{ 'a' * 10000000000 }}",
    "a wide format": "{{ '%10000000000d' | format(1) }}",
    "itself a megabyte": "a" * (2**20 + 1),
}
ESCAPING_TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages }}"


def gguf_file(path: Path) -> bytes:
    """A whole GGUF file with a few keys and one tensor, as the reference implementation writes it."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint32("answer", 42)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "</s>", "<b>", "<\uff5cUser\uff5c>", "word"])
    writer.add_array("tokenizer.ggml.token_type", [3, 3, 4, 4, 1])
    writer.add_array("some.texts", ["one", "two"])
    writer.add_tensor("blk.0.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _number(at: int, form: str, value: float) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def _after(name: bytes, skip: int, form: str, value: float) -> Callable[[bytes], bytes]:
    """Replaces a number that stands so many bytes after a name."""
    return lambda content: _number(content.index(name) + len(name) + skip, form, value)(content)


GGUF_LIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "three bytes": lambda content: content[:3],
    "not GGUF": lambda content: b"GGML" + content[4:],
    "zeros": lambda content: bytes(len(content)),
    "magic alone": lambda content: content[:4],
    "another version": _number(4, "<I", 99),
    "too many tensors": _number(8, "<Q", 2**63),
    "tensors by the thousand": _number(8, "<Q", 200_000),
    "too many keys": _number(16, "<Q", 2**63),
    "more keys than there are": _number(16, "<Q", 60_000),
    "a key of an exabyte": _number(24, "<Q", 2**60),
    "a key of 2**64 - 1": _number(24, "<Q", 2**64 - 1),
    "no such type": _after(b"answer", 0, "<I", 77),
    "an array of no such type": _after(b"some.texts", 4, "<I", 77),
    "an array of arrays": _after(b"some.texts", 4, "<I", 9),
    "an array of 2**60 texts": _after(b"some.texts", 8, "<Q", 2**60),
    "an array of 1000 texts": _after(b"some.texts", 8, "<Q", 1000),
    "2**62 token types": _after(b"token_type", 8, "<Q", 2**62),
    "2**60 tokens": _after(b"ggml.tokens", 8, "<Q", 2**60),
    "a template of an exabyte": _after(b"chat_template", 4, "<Q", 2**60),
    "no layers": _after(b"llama.block_count", 4, "<I", 0),
    "2 billion layers": _after(b"llama.block_count", 4, "<I", 2**31 - 1),
    "no context": _after(b"llama.context_length", 4, "<I", 0),
    "an epsilon that is no number": _after(b"rms_epsilon", 4, "<f", float("nan")),
    "a negative epsilon": _after(b"rms_epsilon", 4, "<f", -1.0),
    "tokens without a type": lambda content: content.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
    "a tensor of 4 billion dimensions": _after(b"blk.0.weight", 0, "<I", 2**32 - 1),
    "a tensor of 2**63 elements": _after(b"blk.0.weight", 4, "<Q", 2**63),
    "a tensor beyond the end": _after(b"blk.0.weight", 24, "<Q", 2**62),
    "cut in its tensor": lambda content: content[:-200],
    "cut in its header": lambda content: content[: len(content) // 4],
}
"""How a whole file is made one that lies."""
