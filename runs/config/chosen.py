"""Finds the plug-ins that a configuration chooses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fittest.runs.config.embedder import EMBEDDERS
from fittest.runs.config.engine import ENGINES
from fittest.runs.config.gates import GATES
from fittest.runs.config.operators import OPERATORS
from fittest.runs.config.reward import REWARDS
from fittest.runs.config.selection import POLICIES

if TYPE_CHECKING:
    from fittest.runs.config import Config
    from fittest.runs.config.kinds import PlugIn


def plug_ins_of(config: Config) -> Iterator[PlugIn]:
    """Yields each plug-in that a configuration chooses."""
    for kind in dict.fromkeys(section.kind for section in config.engines.values()):
        yield from ENGINES.plug_ins_named(kind)
    for kind in dict.fromkeys(section.kind for section in config.rewards.values()):
        yield from REWARDS.plug_ins_named(kind)
    yield from EMBEDDERS.plug_ins_named(config.diversity.embedder.kind)
    yield from POLICIES.plug_ins_named(config.selection.policy)
    for name in sorted(config.operators.tables):
        yield from OPERATORS.plug_ins_named(name)
    for name in sorted(config.gates.tables):
        yield from GATES.plug_ins_named(name)
