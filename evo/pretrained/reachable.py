"""Finds out whether a hub answers at all; without one, only its cache is asked, and at once."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 5.0
_OFFLINE = "HF_HUB_OFFLINE"
_READ_IT = ("huggingface_hub.constants", "datasets.config")
"""Modules that keep what the environment said when they were imported."""


@contextmanager
def offline_without_hub() -> Iterator[None]:
    """Keeps the libraries of Hugging Face offline inside the block if the hub does not answer.

    They try again and again by themselves, and write of each trial, before they look into their cache.
    """
    if os.environ.get(_OFFLINE) or _answers(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"):
        yield
        return
    before = {name: getattr(sys.modules[name], _OFFLINE, False) for name in _READ_IT if name in sys.modules}
    os.environ[_OFFLINE] = "1"
    for name in before:
        setattr(sys.modules[name], _OFFLINE, True)
    try:
        yield
    finally:
        del os.environ[_OFFLINE]
        for name in _READ_IT:
            if name in sys.modules:
                setattr(sys.modules[name], _OFFLINE, before.get(name, False))


@functools.cache
def _answers(endpoint: str) -> bool:
    """Tells whether a connection can be made to an address, or to the proxy that leads there."""
    try:
        parts = urlsplit(endpoint)
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        if proxy and not proxy_bypass(parts.hostname or ""):
            parts = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme=parts.scheme)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=_SECONDS):
            return True
    except (OSError, ValueError):
        return False
