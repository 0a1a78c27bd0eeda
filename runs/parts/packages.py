"""Checks that the packages are installed that the parts of a configuration are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    from fittest.runs.config import Config

_ENGINES = {
    "llamacpp": ("xllamacpp", "embedded"),
    "transformers": ("transformers", "embedded"),
    "vllm": ("vllm", "vllm"),
    "openai": ("aiohttp", "openai"),
}
"""The module that an engine imports when it begins, and the extra of fittest that brings it."""

_REWARDS = {"head": ("sentence_transformers", "embedded"), "http": ("aiohttp", "openai")}

_EMBEDDERS = {"sentence-transformers": ("sentence_transformers", "embedded")}


def check_packages(config: Config, *, own: Collection[str] = ()) -> None:
    """Refuses a configuration one of whose parts cannot work here; nothing is imported to find out.

    Args:
        config: the configuration.
        own: the tables, reward or audit, that a reward of the user's own replaces.

    Raises:
        FittestError: a package is not installed; the message names it, and how to install it.
    """
    for key, kind, module, extra in _needed(config, own):
        if find_spec(module) is None:
            raise FittestError(f'{key} = "{kind}" needs {module}: pip install "fittest[{extra}]"')


def _needed(config: Config, own: Collection[str]) -> Iterator[tuple[str, str, str, str]]:
    for engine in config.engines.values():
        if engine.kind in _ENGINES:
            yield f"{engine.table}.kind", engine.kind, *_ENGINES[engine.kind]
    embedder = config.diversity.embedder.kind
    if embedder in _EMBEDDERS:
        yield "diversity.embedder", embedder, *_EMBEDDERS[embedder]
    if config.archive.breeds:
        yield "archive.kind", config.archive.kind, "ribs", "archive"
    for table, section in config.rewards.items():
        if table in own:
            continue
        if section.kind == "classifier":
            served = bool(section.servers)
            yield f"{table}.kind", section.kind, *(_ENGINES["openai"] if served else _ENGINES["transformers"])
        elif section.kind in _REWARDS:
            yield f"{table}.kind", section.kind, *_REWARDS[section.kind]
