"""Leaves out of a run's configuration and texts what belongs to this machine alone: paths, servers, headers, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from fittest.evo.hiding import holds_key, is_secret_name

_PRIVATE_KEYS = frozenset({"base_url", "headers", "headers_env", "api_key_env", "extra_body", "extra_query"})
"""Keys that say where servers are and what is sent to them; they are left out of every table, however deep."""

_FILE_KEYS = frozenset({"path", "adapter", "thresholds", "contamination"})
"""Keys that always name files, so that even "data/pool.jsonl", which looks like a name on a hub, is a path."""

_NAMES = ("hf:", "builtin:")
"""What begins like this names something on a hub or in the package, and no file of this machine."""

_FREE_TEXT = frozenset({"system"})
"""Keys whose text is for a model; it is published with the pairs, and one that begins with "/" is no path."""

_SEGMENT = r"[^\s/:,;'\"|()\[\]<>=@]+"

_AT_ITS_BEGINNING = r"(?<![\w/.~])"

_PATH = re.compile(rf"{_AT_ITS_BEGINNING}(?:\.{{1,2}}|~\w*)?(?:/{_SEGMENT})+/({_SEGMENT})")
"""A path of at least two names inside a text. An address of the web does not match: its path follows a letter."""

_LEFT_OUT = "(left out)"


def public_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a run.toml less what belongs to this machine; of a path, the file's name is left."""
    return {
        key: _public_value(value, key)
        for key, value in tables.items()
        if key not in _PRIVATE_KEYS and not _is_secret(key, value)
    }


def public_text(text: str, tables: Mapping[str, Any], folder: Path) -> str:
    """Returns a text less the folders of its paths, and less the addresses of the servers in a configuration.

    Args:
        text: any text that fittest wrote, such as a warning, a fingerprint or a data card.
        tables: the tables of the run.toml, as they are.
        folder: the folder of the run.
    """
    for address in sorted(set(_addresses(tables)), key=len, reverse=True):
        text = text.replace(address, _LEFT_OUT)
    # a resolver's message names the host without its port
    for host in sorted(set(_hosts(tables)), key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?::\d+)?(?![\w-])", _LEFT_OUT, text)
    # these may hold spaces, at which the pattern would stop
    for path in sorted(set(_paths(tables)), key=len, reverse=True):
        text = text.replace(path, PurePath(path).name)
    for place in sorted(set(_surroundings(folder)), key=len, reverse=True):
        text = re.sub(rf"{_AT_ITS_BEGINNING}{re.escape(place)}\b(?:(?:/{_SEGMENT})*/({_SEGMENT}))?", _last_name, text)
    return _PATH.sub(_last_name, text)


def _last_name(found: re.Match[str]) -> str:
    return found[1] or _LEFT_OUT


def _public_value(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return public_tables(value)
    if isinstance(value, str):
        if key in _FREE_TEXT:
            return value
        return PurePath(value).name if _is_path(value, key) else _PATH.sub(_last_name, value)
    if isinstance(value, Sequence):
        return [_public_value(item, key) for item in value if not _is_secret(key, item)]
    return value


def _is_secret(key: str, value: Any) -> bool:
    """Tells whether a value must not leave this machine: it has the name of a secret, or is an address."""
    if key in _FREE_TEXT or isinstance(value, (bool, int, float)):
        return False
    # a plug-in may have such keys
    return is_secret_name(key) or (isinstance(value, str) and ("://" in value or holds_key(value)))


def _is_path(value: str, key: str) -> bool:
    if value.startswith(_NAMES):
        return False
    if key in _FILE_KEYS or value.startswith(("/", "~", "./", "../")):
        return "/" in value
    if ":" in value:  # a fingerprint, in which a path may stand
        return False
    # a name on a hub is owner/name; a path that a configuration from Python gave may look the same
    return value.count("/") > 1 or ("/" in value and Path(value).exists())


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the strings in tables, each with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, name)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _leaves(inner, key)


def _paths(tables: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _leaves(tables):
        if key not in _FREE_TEXT and "://" not in value and value.count("/") > 1 and _is_path(value, key):
            yield value


def _addresses(tables: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _leaves(tables):
        if key not in _FREE_TEXT and "://" in value:
            yield value
            yield value.rstrip("/")
            yield from filter(None, [urlsplit(value).netloc])


def _hosts(tables: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _leaves(tables):
        if key not in _FREE_TEXT and "://" in value:
            yield from filter(None, [urlsplit(value).hostname])


def _surroundings(folder: Path) -> Iterator[str]:
    """Yields the run's own folder and the home folder, unless they are the root of everything."""
    for path in (folder.resolve(), Path.home(), Path.cwd()):
        if len(path.parts) > 1:
            yield str(path)
