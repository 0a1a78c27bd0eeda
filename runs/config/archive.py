"""[archive] of a configuration: whether survivors are divided into cells, and by what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fittest.runs.config.section import Section


class ArchiveSection(Section):
    """[archive]; `cells` counts centroids, so it says nothing of labels."""

    kind: Literal["none", "cvt", "labels", "both"] = "none"
    cells: int = Field(default=256, ge=1, le=65_536)

    @property
    def breeds(self) -> bool:
        """Tells whether parents and exemplars are drawn from cells."""
        return self.kind != "none"
