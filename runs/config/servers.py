"""The keys of a configuration that say where servers are, and who asks them; nothing secret may stand in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from fittest.evo.hiding import holds_key, is_no_name, is_secret_name

Urls = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""The addresses of servers; a configuration may give a single one as a string."""


_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = {"content-type", "content-length", "host", "transfer-encoding", "connection"}


def check_servers(base_url: Sequence[str], api_key_env: str | None, *, key: str = "base_url") -> None:
    """Checks the keys of a section that say where servers are, and who asks them.

    Args:
        base_url: the addresses of the servers.
        api_key_env: the name of the environment variable that holds the key.
        key: the key of the section that holds the addresses.

    Raises:
        ValueError: says what is wrong; a key that was written here by mistake is not shown, since a log may keep it.
    """
    if api_key_env is not None and (not _VARIABLE.fullmatch(api_key_env) or is_no_name(api_key_env)):
        raise ValueError("api_key_env must be the name of the environment variable that holds the key")
    urls = [url.rstrip("/") for url in base_url]
    for url in urls:
        _check_url(url, key)
    if len(set(urls)) < len(urls):
        raise ValueError(f"{key} names a server twice")


def check_headers(headers_env: Mapping[str, str], api_key_env: str | None) -> None:
    """Checks the headers that a section sends with each request.

    Args:
        headers_env: the environment variable that holds the value of each header.
        api_key_env: the name of the environment variable that holds the key.

    Raises:
        ValueError: says what is wrong; a value that was written here by mistake is not shown, since a log may keep it.
    """
    for header, variable in headers_env.items():
        if not _HEADER.fullmatch(header):
            raise ValueError('headers_env must be a table of headers and variables, such as { "X-Org" = "MY_ORG" }')
        if not _VARIABLE.fullmatch(variable) or is_no_name(variable):
            raise ValueError(f"headers_env.{header} must be the name of the environment variable that holds its value")
        if header.lower() in _OWN_HEADERS:
            raise ValueError(f"headers_env.{header} is set by HTTP itself")
        if header.lower() == "authorization" and api_key_env is not None:
            raise ValueError(f"headers_env.{header} is set by api_key_env")


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
    if "@" in parts.netloc or "@" in url.split("/")[0] or parts.query or parts.fragment or holds_key(parts.path):
        raise ValueError(
            f"{key} must hold no key, password or query; put the key into an environment variable and name it in"
            " api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or any(letter.isspace() for letter in url):
        raise ValueError(f'{key} "{url}" is no address of a server, such as "http://localhost:8000/v1"')
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f'{key} "{url}" has no port from 1 to 65535 after the colon')
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError(f'{key} "{url}" must end before /chat/completions, as a rule in /v1')


def check_no_secrets(
    key: str, arguments: Mapping[str, Any], *, remedy: str = "and send it as a header: headers_env"
) -> None:
    """Checks that no argument has a name, or a value, that looks like a secret, since run.toml shows it.

    Args:
        key: the key of the section that holds the arguments.
        arguments: the arguments; tables within them are looked into.
        remedy: where the secret belongs instead.

    Raises:
        ValueError: names the argument; its value is not shown.
    """
    if secret := next(_secrets_among(arguments), None):
        raise ValueError(
            f"{key}.{secret} would be written to run.toml; put what is secret into an environment variable, {remedy}"
        )


def _secrets_among(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yields the dotted names of arguments that hold a secret by their name or their look, however deep they are."""
    for name, value in arguments.items():
        if is_secret_name(name) or _holds_secret(value):
            yield name
        # arguments may stand in a list of tables too
        inside = value if isinstance(value, (list, tuple)) else [value]
        yield from (
            f"{name}.{inner}" for table in inside if isinstance(table, Mapping) for inner in _secrets_among(table)
        )


def _holds_secret(value: Any) -> bool:
    """Tells whether a value holds a key: as such, or as an option of a command line."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_secret, value))
    if not isinstance(value, str):
        return False
    option = value.partition("=")[0].lstrip("-")
    return holds_key(value) or (value.startswith("--") and is_secret_name(option))
