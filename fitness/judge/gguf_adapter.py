"""An adapter that PEFT wrote, in the form that llama.cpp loads beside a GGUF model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTED = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False}
"""Model types whose adapters are converted, and whether llama.cpp orders the rows of their q and k otherwise."""

_WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")


def convert_adapter(adapter: Path, network_config: Any, out: Path) -> int:
    """Write an adapter as GGUF.

    llama.cpp rotates neighbouring rows of q and k where transformers rotates halves, so a converted Llama has these
    rows in another order, and so must what is added to them: the rows of B, for A reads what comes in.

    Args:
        adapter: a folder that PEFT wrote; plain LoRA on linear layers.
        network_config: the configuration of the model that it was trained on, as transformers has it.
        out: the file.

    Returns:
        How many layers it changes.

    Raises:
        FittestError: it is no such adapter, or the model's type is not known here.
    """
    import gguf
    from safetensors.numpy import load_file

    kind = network_config.model_type
    if kind not in PERMUTED:
        raise FittestError(f"{adapter}: an adapter of model type {kind!r}; expected {', '.join(PERMUTED)}")
    try:
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(adapter / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise FittestError(f"{adapter}: not an adapter that PEFT wrote ({error})") from None
    if settings.get("use_dora") or settings.get("use_rslora") or settings.get("alpha_pattern"):
        raise FittestError(f"{adapter}: llama.cpp knows neither DoRA, rsLoRA nor a scale for each layer")
    architecture = "llama" if PERMUTED[kind] else kind
    names = gguf.get_tensor_name_map(_architecture(gguf, architecture), network_config.num_hidden_layers)
    writer = gguf.GGUFWriter(str(out), architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]))
    for key in sorted(weights):
        found = _WEIGHT.fullmatch(key)
        name = names.get_name(found["module"]) if found else None
        if found is None or name is None:
            raise FittestError(f"{adapter}: {key} is no LoRA weight of a layer that llama.cpp has")
        weight = weights[key].astype("float32")
        if found["part"] == "B" and PERMUTED[kind]:
            heads = {"q_proj": network_config.num_attention_heads, "k_proj": network_config.num_key_value_heads}
            weight = reordered(weight, heads.get(found["module"].rpartition(".")[2]))
        writer.add_tensor(f"{name}.weight.lora_{found['part'].lower()}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(weights) // 2


def reordered(rows: NDArray[np.float32], heads: int | None) -> NDArray[np.float32]:
    """Rows of each head from two halves into pairs, shape (heads × size, rank); None leaves them as they are."""
    if heads is None:
        return rows
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(rows.shape).copy()


def _architecture(gguf: Any, name: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
