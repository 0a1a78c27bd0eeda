"""The journal key of a request: a hash of exactly what determines its reply."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache

from evo.records import Request, Sampling

KEY_VERSION = 1


def request_key(fingerprint: str, request: Request) -> str:
    """SHA-256, in hex, of canonical JSON over key version, model fingerprint, text, sampling, stage and seed."""
    content: object = request.prompt if request.prompt is not None else request.messages
    body = json.dumps([content, request.stage, request.seed], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{_head(fingerprint, request.sampling)}{body}".encode()).hexdigest()


@lru_cache(maxsize=64)
def _head(fingerprint: str, sampling: Sampling) -> str:
    """The part that thousands of requests share."""
    return json.dumps([KEY_VERSION, fingerprint, asdict(sampling)], sort_keys=True, separators=(",", ":"))
