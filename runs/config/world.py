"""[engine.world] and [reward.world] of a configuration: the landscape that stands in for a model and a reward."""

from __future__ import annotations

from pydantic import Field

from fittest.evo.world import World
from fittest.runs.config.section import Section

_NEAREST = World()


class WorldSection(Section):
    """The settings of a world; those that are absent are the ones nearest to real answers."""

    heritability: float = Field(default=_NEAREST.heritability, ge=0, le=0.5)
    ruggedness: int = Field(default=_NEAREST.ruggedness, ge=0, le=9)
    noise: float = Field(default=_NEAREST.noise, ge=0, le=100)
    empty: float = Field(default=_NEAREST.empty, ge=0, le=1)
    seed: int = Field(default=_NEAREST.seed, ge=0)

    @property
    def world(self) -> World:
        """Returns the landscape."""
        return World(**self.model_dump())
