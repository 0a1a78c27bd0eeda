"""Tokenizers of the Hugging Face library, also out of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evo.errors import FittestError


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a hub name, a folder, or a GGUF file.

    Raises:
        FittestError: transformers is not installed, or there is no tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise FittestError('tokenizers need transformers: pip install "fittest[embedded]"') from None
    path = Path(model)
    try:
        if path.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FittestError(f"no tokenizer in {model}: {reason}") from None
