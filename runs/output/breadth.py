"""Says how broad the population of a run is: at equal size, and by the cells of its archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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


def breadth_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describes the breadth of a run; no line for a run of an earlier fittest, or without breadth.

    Args:
        summary: what summary.json holds.
    """
    found = summary.get("breadth")
    if not found:
        return []
    told = [_at(found["first"])]
    if found["last"]["generation"] != found["first"]["generation"]:
        told.append(_at(found["last"]))
    return [f"breadth (Vendi score of {found['size']} parents): {', '.join(told)}"]


def _at(point: Mapping[str, Any]) -> str:
    spread = f" ± {point['vendi_equal_sd']:.1f}" if point["vendi_equal_sd"] else ""
    return f"{point['vendi_equal']:.1f}{spread} in generation {point['generation']}"
