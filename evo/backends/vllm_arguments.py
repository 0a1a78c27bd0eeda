"""Prepares what vLLM is started with: checks arguments by name, adds what a CPU needs, and fingerprints them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.fingerprints import folder_fingerprint

_NO_MATTER_TO_REPLIES = frozenset({
    "cpu_offload_gb", "data_parallel_size", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_log_requests", "enable_prefix_caching", "enable_sleep_mode", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "log_level", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size",
    "tensor_parallel_size", "use_tqdm_on_load",
})  # fmt: skip
"""These arguments say where and how fast a model runs; they change replies by no more than rounding, as batches do."""

# the values that vLLM takes for max_lora_rank
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_CPU_KV_CACHE_BYTES = 2**30
_CPU_BATCHED_TOKENS = 8192


def require_vllm() -> None:
    """Checks that vLLM is installed, and limits its log to errors unless the user's environment asks for more.

    Raises:
        FittestError: it is not installed.
    """
    if find_spec("vllm") is None:
        raise FittestError('engine.kind = "vllm" needs vllm: pip install "fittest[vllm]"')
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def check_names(arguments: Mapping[str, Any]) -> None:
    """Checks that vLLM knows these arguments.

    Args:
        arguments: arguments of vLLM's engine by name.

    Raises:
        FittestError: vLLM does not know one of them; the error names the first.
    """
    if not arguments:
        return  # importing vLLM takes seconds
    from dataclasses import fields
    from difflib import get_close_matches

    from vllm.engine.arg_utils import AsyncEngineArgs

    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in arguments:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise FittestError(f"engine.engine_args.{name}: vLLM has no such argument{hint}")


def suited_to_platform(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with defaults that vLLM needs on a CPU, if it runs on one; given arguments win."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return dict(arguments)
    defaults = {
        "enforce_eager": True,  # compiling takes two minutes
        "enable_chunked_prefill": False,  # a seeded request whose prefill is split crashes the CPU engine
        "max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, arguments.get("max_model_len") or 0),
        "block_size": 32,  # of 128, only prompts with 128 tokens in common would share their prefill
    }
    if "gpu_memory_utilization" not in arguments:  # which on a CPU is a share of all memory
        defaults["kv_cache_memory_bytes"] = _CPU_KV_CACHE_BYTES
    return {**defaults, **arguments}


def fingerprint_of(model: str, lora: Path | None, arguments: Mapping[str, Any]) -> str:
    """Returns `vllm:` and 16 hex digits over the model, the adapter and the arguments that change replies.

    A folder is identified by its files. A name on a hub is identified by the name and, if given, its `revision`; only
    the user can know whether the name comes to mean other weights there.

    Args:
        model: a folder, or a name on a hub.
        lora: the folder of an adapter, or None.
        arguments: arguments of vLLM's engine by name.
    """
    folder = Path(model)
    identity = {
        "model": folder_fingerprint(folder) if folder.is_dir() else model,
        "lora": None if lora is None else folder_fingerprint(lora),
        "arguments": {name: value for name, value in arguments.items() if name not in _NO_MATTER_TO_REPLIES},
    }
    return f"vllm:{hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]}"


def lora_arguments(lora: Path) -> dict[str, Any]:
    """Returns the arguments that an adapter needs: LoRA is enabled, with room for its rank.

    Args:
        lora: the folder of the adapter.

    Raises:
        FittestError: the folder holds no adapter.
    """
    file = lora / "adapter_config.json"
    try:
        rank = int(json.loads(file.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FittestError(
            f"engine.adapter: no adapter in {lora}; expected a folder with adapter_config.json"
        ) from None
    return {"enable_lora": True, "max_lora_rank": next((room for room in _LORA_RANKS if room >= rank), rank)}


def error_line(error: Exception) -> str:
    """Returns what an error of vLLM says, on one line; for a rejected argument, without the dump of all others."""
    from pydantic import ValidationError

    words = (
        "; ".join(problem["msg"] for problem in error.errors()) if isinstance(error, ValidationError) else str(error)
    )
    return " ".join(words.split()) or type(error).__name__
