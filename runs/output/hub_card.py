"""Writes what stands before a data card on a hub: the configurations of the data set, and its licences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from fittest.runs.output.card import NOT_STATED, parts_of

HUB_TAG = "fittest"
"""Marks a data set on a hub as one that fittest published, and may therefore replace."""

_HUB_LICENCES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-openrail-m", "bsd",
        "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
        "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "epl-2.0", "gemma", "gfdl",
        "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "llama2", "llama3", "llama3.1",
        "llama3.2", "llama3.3", "mit", "mpl-2.0", "odbl", "odc-by", "openrail", "pddl", "unlicense", "wtfpl", "zlib",
    }
)  # fmt: skip
"""Licences that hubs know by a name of their own; a hub refuses a card that names any other but by "other"."""


def front_matter(survivors: pl.DataFrame, files: Mapping[str, Sequence[str]], *, title: str, complete: bool) -> str:
    """Returns what stands before a card on a hub, in YAML: configurations, and licences as a hub names them.

    Args:
        survivors: a survivors.parquet.
        files: the Parquet files of each configuration; the first one is loaded if none is named.
        title: the name of the data set for readers.
        complete: whether the survivors' licences are those of all prompts in the files.
    """
    from huggingface_hub import DatasetCardData

    configurations = [
        {
            "config_name": name,
            "data_files": [{"split": "train", "path": list(paths)}],
            **({"default": True} if number == 0 else {}),
        }
        for number, (name, paths) in enumerate(files.items())
    ]
    data = DatasetCardData(
        **_hub_licences(survivors["licence"], complete),
        pretty_name=title,
        tags=[HUB_TAG, "synthetic"],
        configs=configurations,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _hub_licences(values: pl.Series, complete: bool) -> dict[str, Any]:
    """Returns the keys `license` and, for licences that hubs have no name for, `license_name`."""
    named = {part for value in values for part in parts_of(value)}
    by_name = {name: _hub_licence(name) for name in sorted(named - {NOT_STATED})}
    known = sorted({known for known in by_name.values() if known is not None})
    others = [_slug(name) for name, known in by_name.items() if known is None]
    unstated = ["unknown"] if NOT_STATED in named or not complete or not named else []
    licences = {"license": [*known, *(["other"] if others else []), *unstated]}
    return licences | ({"license_name": "-and-".join(dict.fromkeys(others))} if others else {})


def _hub_licence(name: str) -> str | None:
    """Returns a hub's name of a licence, or None; SPDX writes "GPL-3.0-only" and "ODC-By-1.0", for instance."""
    slug = _slug(name)
    short = slug.removesuffix("-only").removesuffix("-or-later")
    return next((known for known in (slug, short, short.removesuffix("-1.0")) if known in _HUB_LICENCES), None)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "other"
