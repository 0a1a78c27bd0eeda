"""Keys of the journal: a request, by exactly what determines its reply, and a response, by its prompt and itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache

from fittest.evo.records import Message, Request, Sampling

KEY_VERSION = 1

_encode_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def request_key(fingerprint: str, request: Request) -> str:
    """SHA-256, in hex, of canonical JSON over key version, model fingerprint, text, sampling, stage and seed."""
    content = request.prompt if request.prompt is not None else request.messages
    digest = _begun(fingerprint, request.sampling, content).copy()
    digest.update(f'"{request.stage}",{request.seed}]'.encode())
    return digest.hexdigest()


def response_key(prompt: str, response: str) -> str:
    """SHA-256, in hex, of a prompt and a response to it; the length keeps ("ab", "c") and ("a", "bc") apart."""
    return hashlib.sha256(f"{len(prompt)}:{prompt}{response}".encode()).hexdigest()


@lru_cache(maxsize=16)
def _begun(fingerprint: str, sampling: Sampling, content: str | tuple[Message, ...]) -> hashlib._Hash:
    """The hash up to the text, which the samples of one prompt share; they are asked one after another."""
    return hashlib.sha256(f"{_head(fingerprint, sampling)}[{_encode_text(content)},".encode())


@lru_cache(maxsize=64)
def _head(fingerprint: str, sampling: Sampling) -> str:
    """The part that thousands of requests share."""
    return json.dumps([KEY_VERSION, fingerprint, asdict(sampling)], sort_keys=True, separators=(",", ":"))
