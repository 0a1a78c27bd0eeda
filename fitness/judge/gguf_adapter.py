"""Converts an adapter that PEFT wrote to the form that llama.cpp loads beside a GGUF model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.loading import adapter_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# the model types whose adapters are converted, and whether llama.cpp has the rows of their q and k in another order
_PERMUTED = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False}

_WEIGHT = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")


def convert_adapter(adapter: Path, network_config: Any, out: Path) -> int:
    """Writes an adapter as GGUF.

    For rotary positions, llama.cpp rotates neighbouring rows of q and k where transformers rotates halves. A converted
    Llama therefore has these rows in another order, and so must the rows of B, which are added to them. A is not
    reordered, since it reads the input.

    Args:
        adapter: a folder that PEFT wrote; plain LoRA on linear layers.
        network_config: the configuration, from transformers, of the model that the adapter was trained on.
        out: the file to write.

    Returns:
        The number of layers that the adapter changes.

    Raises:
        FittestError: the folder holds no such adapter, or the model's type is not supported.
    """
    import gguf
    from safetensors.numpy import load_file

    model_type = network_config.model_type
    if model_type not in _PERMUTED:
        raise FittestError(f"{adapter}: an adapter of model type {model_type!r}; expected {', '.join(_PERMUTED)}")
    settings = adapter_settings(adapter)
    try:
        weights = load_file(adapter / "adapter_model.safetensors")
        alpha = float(settings["lora_alpha"])
    except Exception as error:  # whatever it is, it comes from the files of the adapter
        raise FittestError(f"{adapter}: not an adapter that PEFT wrote ({error})") from None
    if settings.get("use_dora") or settings.get("use_rslora") or settings.get("alpha_pattern"):
        raise FittestError(f"{adapter}: llama.cpp knows neither DoRA, rsLoRA nor a scale for each layer")
    # llama.cpp knows Mistral's models as Llamas
    architecture = "llama" if _PERMUTED[model_type] else model_type
    names = gguf.get_tensor_name_map(_architecture(gguf, architecture), network_config.num_hidden_layers)
    writer = gguf.GGUFWriter(str(out), architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key in sorted(weights):
        found = _WEIGHT.fullmatch(key)
        name = names.get_name(found["module"]) if found else None
        if found is None or name is None:
            raise FittestError(f"{adapter}: {key} is no LoRA weight of a layer that llama.cpp has")
        weight = weights[key].astype("float32")
        if found["part"] == "B" and _PERMUTED[model_type]:
            heads = {"q_proj": network_config.num_attention_heads, "k_proj": network_config.num_key_value_heads}
            weight = _reordered(weight, heads.get(found["module"].rpartition(".")[2]))
        writer.add_tensor(f"{name}.weight.lora_{found['part'].lower()}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(weights) // 2


def _reordered(rows: NDArray[np.float32], heads: int | None) -> NDArray[np.float32]:
    """Interleaves the two halves of each head's rows, shape (heads × size, rank); None leaves rows as they are."""
    if heads is None:
        return rows
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(rows.shape).copy()


def _architecture(gguf: Any, name: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
