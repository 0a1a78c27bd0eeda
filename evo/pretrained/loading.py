"""Models and tokenizers of the Hugging Face library, from a hub name, a folder, or a GGUF file."""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import nullcontext, redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.chats import with_sane_template
from fittest.evo.pretrained.fingerprints import file_digest, folder_digest
from fittest.evo.pretrained.gguf_header import read_gguf_header
from fittest.evo.pretrained.reachable import offline_without_hub


def load_pretrained(loader: str, model: str | Path, **options: Any) -> Any:
    """Loads a model or tokenizer by an Auto class of transformers; the weights of a GGUF file are dequantised.

    No code of the model runs: neither its own classes, nor a pickle in place of safetensors.

    Args:
        loader: the name of the Auto class.
        model: a hub name, a folder, or a .gguf file.
        **options: further arguments of `from_pretrained`.

    Raises:
        FittestError: transformers is not installed, or has nothing to load there.
    """
    try:
        # imported by name, as an untyped module: its functions carry no annotations
        transformers: Any = import_module("transformers")
    except ImportError:
        raise FittestError(f'{model}: loading it needs transformers: pip install "fittest[embedded]"') from None
    path = Path(model).expanduser()
    source: str | Path = path if path.exists() else str(model)
    if path.is_file():
        source = path.parent
        options["gguf_file"] = path.name
        if "dtype" in options:
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    elif loader.startswith("AutoModel"):
        options["use_safetensors"] = True
    try:
        if path.is_file():
            read_gguf_header(path)
        # two libraries draw bars while the weights are read, and only one of them can be asked not to
        with redirect_stderr(StringIO()), nullcontext() if path.exists() else offline_without_hub():
            loaded = getattr(transformers, loader).from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # whatever it is, it comes from the files of the model
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        what = "a tokenizer" if loader == "AutoTokenizer" else "a language model"
        raise FittestError(
            f"{model}: not loaded as {what} ({reason}); expected a folder, a .gguf file or a hub name"
        ) from error
    return with_sane_template(loaded, str(model)) if loader == "AutoTokenizer" else loaded


def pretrained_id(model: str | Path) -> str:
    """Returns what identifies a model: 16 hex digits over a file or folder, or its name and commit on the hub.

    Args:
        model: a hub name, a folder, or a file.

    Raises:
        FittestError: there is no such model.
    """
    path = Path(model).expanduser()
    if path.exists():
        digest = file_digest(path) if path.is_file() else folder_digest(path)
        return digest[:16]
    from huggingface_hub import try_to_load_from_cache

    # once a part of the model is loaded, its file lies in a folder of the hub's cache that is named for the commit
    load_pretrained("AutoTokenizer", model)
    return f"{model}@{Path(str(try_to_load_from_cache(str(model), 'tokenizer_config.json'))).parent.name}"


def context_length(config: Any) -> int | None:
    """Returns the number of tokens that a model reads by its configuration; None when it names no bound."""
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Returns the configuration of an adapter.

    Args:
        folder: the folder that PEFT wrote.

    Raises:
        FittestError: there is no adapter.
    """
    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FittestError(f"{folder}: not an adapter that PEFT wrote ({error})") from None
    if not isinstance(found, dict):
        raise FittestError(f"{folder}: not an adapter that PEFT wrote (adapter_config.json holds no table)")
    return found


def adapter_id(folder: Path) -> str:
    """Returns 16 hex digits over an adapter's weights and how strongly they count; where it lies does not matter.

    Args:
        folder: the folder that PEFT wrote.

    Raises:
        FittestError: there is no adapter.
    """
    try:
        config = adapter_settings(folder)
        weights = (folder / "adapter_model.safetensors").read_bytes()
    except OSError as error:
        raise FittestError(f"{folder}: not an adapter that PEFT wrote ({error})") from None
    modules = config.get("target_modules")
    scale = json.dumps(
        [
            *(config.get(key) for key in ("r", "lora_alpha", "use_rslora")),
            sorted(modules) if isinstance(modules, list) else modules,  # PEFT writes a set, in whatever order
        ]
    )
    return hashlib.sha256(scale.encode() + weights).hexdigest()[:16]


def with_adapter(network: Any, folder: Path) -> Any:
    """Returns the model with an adapter merged into its weights.

    Args:
        network: the model.
        folder: the folder that PEFT wrote.

    Raises:
        FittestError: peft is not installed, or the folder holds no adapter for this model.
    """
    adapter_id(folder)  # which wants its weights as safetensors: PEFT would read a pickle as well
    try:
        from peft import PeftModel
    except ImportError:
        raise FittestError(f'{folder}: an adapter needs peft: pip install "fittest[train]"') from None
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name; can go once peft asks by the new one
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            return PeftModel.from_pretrained(network, str(folder)).merge_and_unload()
        except Exception as error:  # whatever it is, it comes from the files of the adapter
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise FittestError(f"{folder}: not an adapter for this model ({reason})") from error
