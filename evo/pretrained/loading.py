"""Models and tokenizers of the Hugging Face library, from a hub name, a folder, or a GGUF file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import file_digest, folder_digest

if TYPE_CHECKING:
    from fittest.evo.records import Message


def load_pretrained(loader: str, model: str | Path, **options: Any) -> Any:
    """Loads a model or tokenizer by an Auto class of transformers; the weights of a GGUF file are dequantised.

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
    try:
        # two libraries draw bars while the weights are read, and only one of them can be asked not to
        with redirect_stderr(StringIO()):
            return getattr(transformers, loader).from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        what = "a tokenizer" if loader == "AutoTokenizer" else "a language model"
        raise FittestError(
            f"{model}: not loaded as {what} ({reason}); expected a folder, a .gguf file or a hub name"
        ) from error


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


def chat_tokens(tokenizer: Any, messages: Sequence[Message], begun: str = "") -> list[int]:
    """Returns the tokens of a chat up to where the answer begins, and those of the answer so far.

    Args:
        tokenizer: the tokenizer of the model.
        messages: the chat.
        begun: the beginning of the answer.

    Raises:
        FittestError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise FittestError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; expected a chat model")
    turns = [message._asdict() for message in messages]
    opening = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(opening + begun, add_special_tokens=False).input_ids)


def context_length(config: Any) -> int | None:
    """Returns the number of tokens that a model reads by its configuration; None when it names no bound."""
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def adapter_id(folder: Path) -> str:
    """Returns 16 hex digits over an adapter's weights and how strongly they count; where it lies does not matter.

    Args:
        folder: the folder that PEFT wrote.

    Raises:
        FittestError: there is no adapter.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = (folder / "adapter_model.safetensors").read_bytes()
    except (OSError, ValueError) as error:
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
        FittestError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise FittestError(f'{folder}: an adapter needs peft: pip install "fittest[train]"') from None
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name; can go once peft asks by the new one
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return PeftModel.from_pretrained(network, str(folder)).merge_and_unload()
