"""Reads keys and headers from the environment, and hides them in what servers say."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fittest.evo.backends.openai_format import one_line
from fittest.evo.errors import FittestError
from fittest.evo.hiding import Keys, is_no_name


class Credentials:
    """Holds what is secret about the requests of one section; it is read from the environment once.

    Args:
        section: the table of run.toml that errors name.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        headers_env: headers that are sent with each request, and the environment variables that hold their values.

    Attributes:
        headers: the headers of each request.
    """

    def __init__(self, section: str, api_key_env: str | None, headers_env: Mapping[str, str]) -> None:
        self._section = section
        self._key_name = api_key_env
        self._header_names = list(headers_env.values())
        self.headers = {header: _secret(name, f"{section}.headers_env") for header, name in headers_env.items()}
        secrets = set(self.headers.values())
        if api_key_env is not None:
            key = _secret(api_key_env, f"{section}.api_key_env")
            self.headers["Authorization"] = f"Bearer {key}"
            secrets.add(key)
        # "Basic" and "Bearer" are no secrets, and what follows them is repeated without them
        self._keys = Keys({*secrets, *(secret.rpartition(" ")[2] for secret in secrets)})

    @property
    def remedy(self) -> str:
        """Returns what to check when a server does not let the user in."""
        names = [*([self._key_name] if self._key_name else []), *self._header_names]
        if names:
            return f"check the key in the environment variable {' or '.join(dict.fromkeys(names))}"
        keys = f"{self._section}.api_key_env, or {self._section}.headers_env"
        return f"name the environment variable that holds the key: {keys}"

    def hidden_in(self, text: str) -> str:
        """Returns a text of a model without the secrets, since some servers repeat them."""
        return self._keys.hidden_in(text)

    def words(self, text: str) -> str:
        """Writes a server's words in one line, without the secrets."""
        return one_line(self._keys.hidden_in_words(text))


def _secret(name: str, key: str) -> str:
    """Reads what an environment variable holds that a key of run.toml names."""
    if is_no_name(name):
        raise FittestError(
            f"{key} holds what looks like a key; put the key into an environment variable and name that"
        )
    value = os.environ.get(name, "").strip()
    if not value:
        raise FittestError(f"{key}: the environment variable {name} is not set")
    if not (value.isascii() and value.isprintable()):
        raise FittestError(f"{key}: the environment variable {name} holds characters that no key has")
    return value
