"""What vLLM is started with: its arguments checked by name, what suits a CPU, and what of them changes replies."""

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

NO_MATTER_TO_REPLIES = frozenset({
    "cpu_offload_gb", "data_parallel_size", "disable_log_stats", "distributed_executor_backend", "download_dir",
    "enable_log_requests", "enable_prefix_caching", "enable_sleep_mode", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "log_level", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size",
    "tensor_parallel_size", "use_tqdm_on_load",
})  # fmt: skip
"""Arguments that say where and how fast a model runs, beyond the rounding that every other batch brings as well."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
CPU_KV_CACHE_BYTES = 2**30
CPU_BATCHED_TOKENS = 8192


def require_vllm() -> None:
    """Check that vLLM is installed, and keep its log to errors unless the user's environment asks for more.

    Raises:
        FittestError: it is not installed.
    """
    if find_spec("vllm") is None:
        raise FittestError('engine.kind = "vllm" needs vllm: pip install "fittest[vllm]"')
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def check_names(arguments: Mapping[str, Any]) -> None:
    """Check that vLLM knows these arguments; it has to be imported for this, which takes seconds.

    Raises:
        FittestError: names the first that it does not know.
    """
    if not arguments:
        return
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
    """The arguments, with what vLLM needs to run well on a CPU where that is what it runs on; the given ones win."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return dict(arguments)
    defaults = {
        "enforce_eager": True,  # compiling takes two minutes
        "enable_chunked_prefill": False,  # a seeded request whose prefill is split crashes the CPU engine
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, arguments.get("max_model_len") or 0),
        "block_size": 32,  # of 128, only prompts with 128 tokens in common would share their prefill
    }
    if "gpu_memory_utilization" not in arguments:  # which on a CPU is a share of all memory
        defaults["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
    return {**defaults, **arguments}


def fingerprint_of(model: str, lora: Path | None, arguments: Mapping[str, Any]) -> str:
    """`vllm:` and 16 hex digits over model, adapter and the arguments that change replies.

    A folder counts with its files; a name on a hub with its `revision`, if one is given: what else it may come to
    mean there is for the user to know.
    """
    folder = Path(model)
    identity = {
        "model": folder_fingerprint(folder) if folder.is_dir() else model,
        "lora": None if lora is None else folder_fingerprint(lora),
        "arguments": {name: value for name, value in arguments.items() if name not in NO_MATTER_TO_REPLIES},
    }
    return f"vllm:{hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]}"


def lora_arguments(lora: Path) -> dict[str, Any]:
    """What an adapter needs: room for its rank.

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
    return {"enable_lora": True, "max_lora_rank": next((room for room in LORA_RANKS if room >= rank), rank)}


def one_line(error: Exception) -> str:
    """What an error of vLLM's says, on one line; of a rejected argument without the dump of all others."""
    from pydantic import ValidationError

    words = (
        "; ".join(problem["msg"] for problem in error.errors()) if isinstance(error, ValidationError) else str(error)
    )
    return " ".join(words.split()) or type(error).__name__
