"""The keys of a configuration that say where servers are, and who asks them; nothing secret may stand in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator

Urls = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""The addresses of servers; a configuration may give a single one as a string."""


def check_servers(base_url: Sequence[str], api_key_env: str | None, *, key: str = "base_url") -> None:
    """Checks the keys of a section that say where servers are, and who asks them.

    Args:
        base_url: the addresses of the servers.
        api_key_env: the name of the environment variable that holds the key.
        key: the key of the section that holds the addresses.

    Raises:
        ValueError: says what is wrong; a key that was written here by mistake is not shown, since a log may keep it.
    """
    if api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", api_key_env, re.ASCII):
        raise ValueError("api_key_env must be the name of the environment variable that holds the key")
    urls = [url.rstrip("/") for url in base_url]
    for url in urls:
        _check_url(url, key)
    if len(set(urls)) < len(urls):
        raise ValueError(f"{key} names a server twice")


def _check_url(url: str, key: str) -> None:
    """Checks that requests can be sent to a URL, and that nothing secret is in it, since run.toml shows it.

    Args:
        url: the address of a server.
        key: the key that holds it.

    Raises:
        ValueError: says what is wrong; a URL that may hold a key is not shown.
    """
    parts = urlsplit(url)
    # without its scheme, a URL with a password has no netloc
    if "@" in parts.netloc or "@" in url.split("/")[0] or parts.query or parts.fragment:
        raise ValueError(
            f"{key} must hold no key, password or query; put the key into an environment variable and name it in"
            " api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or any(letter.isspace() for letter in url):
        raise ValueError(f'{key} "{url}" is no address of a server, such as "http://localhost:8000/v1"')
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError(f'{key} "{url}" must end before /chat/completions, as a rule in /v1')
