"""The embedded engine with the HTTP server of llama.cpp, to be measured as a server; fittest itself opens no port."""

from __future__ import annotations

from typing import Any

from fittest.evo.backends.llamacpp import LlamaCpp


class Listening(LlamaCpp):
    """Listens on the loopback, on a port that is free, without a key."""

    def _started(self, xllamacpp: Any, params: Any) -> Any:
        return xllamacpp.Server(params)

    @property
    def url(self) -> str:
        """The address for requests."""
        return f"{self._server.listening_address}/v1"
