"""Puts the repeatability of a summary.json into words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fittest.evo.records import RIP_METRICS


def repeatability_in_words(summary: Mapping[str, Any]) -> list[str]:
    """Returns a line for people, or none for a summary that says nothing about repeatability.

    Args:
        summary: what summary.json holds; earlier versions did not write the key.
    """
    repeatability = summary.get("repeatability") or {}
    known = [f"{name} {repeatability[name]:.2f}" for name in RIP_METRICS if repeatability.get(name) is not None]
    if not known:
        return []
    line, survive = f"repeatability between half draws: {', '.join(known)}", repeatability["survive"]
    if survive is not None:
        line += (
            f"; of the prompts kept on one half, {survive['share']:.0%} are kept on the other"
            f" ({survive['low']:.0%} to {survive['high']:.0%})"
        )
    return [line]
