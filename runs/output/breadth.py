"""Says how broad the population of a run is: at equal size, and by the cells of its archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution


def breadth_of(logbook: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the first and the last breadth at equal size that the logbook of a run holds.

    Args:
        logbook: the lines of all generations, in their order.

    Returns:
        size; first and last, each with generation, vendi_equal and vendi_equal_sd; None if no population was large
        enough.
    """
    known = [line for line in logbook if line["vendi_equal"] is not None]
    if not known:
        return None
    first, last = (
        {name: line[name] for name in ("generation", "vendi_equal", "vendi_equal_sd")}
        for line in (known[0], known[-1])
    )
    return {"size": known[0]["vendi_equal_size"], "first": first, "last": last}


def cells_of(evolution: Evolution, kind: str) -> dict[str, Any] | None:
    """Returns how the survivors of a run lie in cells; None before its first generation is finished, or without cells.

    Args:
        evolution: the run so far.
        kind: `archive.kind`.
    """
    cells = evolution.cells
    if not evolution.logbook or not cells.count:
        return None
    last = evolution.logbook[-1]
    return {
        "kind": kind,
        "cells": cells.count,
        "filled": round(last["coverage"] * cells.count),
        "coverage": last["coverage"],
        "qd_score": last["qd_score"],
        "unplaced": cells.unplaced,
    }


def breadth_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describes the breadth of a run; no line for a run of an earlier fittest, or without breadth.

    Args:
        summary: what summary.json holds.
    """
    lines = []
    if found := summary.get("breadth"):
        ends = [found["first"], found["last"]]
        told = ", ".join(_at(end) for end in ends[: 1 + (ends[0]["generation"] != ends[1]["generation"])])
        lines.append(f"breadth (Vendi score of {found['size']} parents): {told}")
    if cells := summary.get("archive"):
        score = "" if cells["qd_score"] is None else f", QD score {cells['qd_score']:.1f}"
        lines.append(f"cells with a survivor: {cells['filled']} of {cells['cells']}{score}")
    return lines


def _at(point: Mapping[str, Any]) -> str:
    spread = f" ± {point['vendi_equal_sd']:.1f}" if point["vendi_equal_sd"] else ""
    return f"{point['vendi_equal']:.1f}{spread} in generation {point['generation']}"
