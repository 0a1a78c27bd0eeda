"""docs/limits.md lists the limits of all keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fittest.runs.config import Config
from fittest.runs.config.engine import EngineSection
from fittest.runs.config.reward import RewardSection
from fittest.runs.config.section import MOST_KEYS, MOST_LEVELS, MOST_TOLD, MOST_WEIGHT, Section
from fittest.runs.config.selection import SelectionSection

PAGE = Path(__file__).parents[3] / "docs" / "limits.md"

CHOSEN: dict[str, type[Section]] = {"engine": EngineSection, "reward": RewardSection, "selection": SelectionSection}


def _limits_of(section: Any, inside: str) -> Iterator[tuple[str, float]]:
    for name, field in section.model_fields.items():
        key = f"{inside}{name}"
        for rule in field.metadata:
            if (most := getattr(rule, "le", None)) is not None and most > 2:  # the others are shares
                yield key, most
        kinds = [CHOSEN[name], *_derived(CHOSEN[name])] if name in CHOSEN and not inside else [field.annotation]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _limits_of(kind, f"{key}.")


def _derived(section: type[Section]) -> Iterator[type[Section]]:
    for kind in section.__subclasses__():
        if kind.__module__.startswith("fittest."):
            yield kind
            yield from _derived(kind)


def test_the_page_has_the_limit_of_every_key() -> None:
    rows = re.findall(r"^\| (`.*) \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {key: float(most.replace(",", "")) for keys, most in rows for key in re.findall(r"`([\w.]+)`", keys)}
    found = dict(_limits_of(Config, ""))
    assert len(found) > 30
    assert told == found


@pytest.mark.parametrize(
    "figure", [f"{MOST_KEYS:,} keys", f"{MOST_LEVELS} deep", f"{MOST_WEIGHT:g}", f"first {MOST_TOLD}"]
)
def test_the_page_has_the_limits_of_the_whole(figure: str) -> None:
    assert figure in PAGE.read_text()
