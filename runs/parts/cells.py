"""From the [archive] of a configuration to the cells of a run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.cells import Cells, Centroids
from fittest.evo.elites import Elites
from fittest.evo.seeds import SeedTree
from fittest.fitness.judge.labels import LabelGrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deap import base
    from numpy.typing import NDArray

    from fittest.evo.archive import Archive
    from fittest.evo.cells import Division
    from fittest.evo.merit import Merit
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Ask, Journal
    from fittest.evo.state import State
    from fittest.runs.config import Config


def cells_of(
    config: Config, *, toolbox: base.Toolbox, archive: Archive, merit: Merit, ask: Ask, journal: Journal
) -> Cells:
    """Returns the cells of a run; if the run breeds from them, `toolbox.stock` draws from their elites.

    Without an archive of elites, cells by centroids only show how much of the pool's range the survivors cover.

    Args:
        config: the whole configuration.
        toolbox: holds the stock that the elites are topped up from.
        archive: will hold the embeddings of the pool.
        merit: scores survivors.
        ask: sends requests for labels to the engine.
        journal: keeps the centroids of an archive.
    """
    section, seeds = config.archive, SeedTree(config.run.seed)
    divisions: list[Division] = []
    if section.kind != "labels":
        kept_in = journal if section.breeds else None
        divisions.append(Centroids(section.cells, archive=archive, seeds=seeds, journal=kept_in))
    if section.kind in ("labels", "both"):
        divisions.append(LabelGrid(ask=ask, seeds=seeds))
    if not section.breeds:
        return Cells(divisions)
    elites = Elites(divisions, scores=partial(_scores, merit), otherwise=toolbox.stock)
    toolbox.register("stock", elites.stock)
    return elites


def _scores(merit: Merit, state: State, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    merit.follow(state)
    return np.array([merit.score(prompt) for prompt in prompts], dtype=np.float64)
