"""Finds every plug-in that is installed here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fittest.runs.config.embedder import EMBEDDERS
from fittest.runs.config.engine import ENGINES
from fittest.runs.config.gates import GATES
from fittest.runs.config.kinds import PlugIn, Registry
from fittest.runs.config.operators import OPERATORS
from fittest.runs.config.reward import REWARDS
from fittest.runs.config.selection import POLICIES
from fittest.runs.output.exporters import EXPORTERS

_REGISTRIES: tuple[Registry[Any], ...] = (ENGINES, REWARDS, EMBEDDERS, OPERATORS, GATES, POLICIES, EXPORTERS)


def installed() -> Iterator[PlugIn]:
    """Yields each plug-in of each group, with what came of loading it."""
    for registry in _REGISTRIES:
        yield from registry.plug_ins()
