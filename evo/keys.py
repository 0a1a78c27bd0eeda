"""Computes the keys of the journal: of a request, by exactly what determines its reply, and of a response."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache

from fittest.evo.records import Message, Request, Sampling

# old journals answer under their keys: another form of the key needs another version and a migration
_KEY_VERSION = 1

_encode_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def request_key(fingerprint: str, request: Request) -> str:
    """Returns the SHA-256, in hex, of canonical JSON over version, fingerprint, text, sampling, stage and seed.

    The sample index is no part of the key; the journal stores it beside the key.

    Args:
        fingerprint: identifies the engine and its model.
        request: the request.
    """
    content = request.prompt if request.prompt is not None else request.messages
    # the JSON is written in three parts, two of them hashed once for many requests: 8 µs a key instead of 20
    digest = _begun(fingerprint, request.sampling, content).copy()
    # reference answers were asked for at stage "judge" when journals began, and their keys stand
    stage = "judge" if request.stage == "reference" else request.stage
    digest.update(f'"{stage}",{request.seed}]'.encode())
    return digest.hexdigest()


def response_key(prompt: str, response: str) -> str:
    """Returns the SHA-256, in hex, of prompt and response; the length keeps ("ab", "c") and ("a", "bc") apart."""
    return hashlib.sha256(f"{len(prompt)}:{prompt}{response}".encode()).hexdigest()


@lru_cache(maxsize=16)
def _begun(fingerprint: str, sampling: Sampling, content: str | tuple[Message, ...]) -> hashlib._Hash:
    """Hashes up to the text, which the samples of one prompt share; they are asked for one after another."""
    return hashlib.sha256(f"{_head(fingerprint, sampling)}[{_encode_text(content)},".encode())


@lru_cache(maxsize=64)
def _head(fingerprint: str, sampling: Sampling) -> str:
    """Writes the part of the JSON that thousands of requests share."""
    return json.dumps([_KEY_VERSION, fingerprint, asdict(sampling)], sort_keys=True, separators=(",", ":"))
