"""Writes the data card, which says what the survivors are, where they come from, and which licences they have."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from fittest.evo.errors import FittestError
from fittest.runs.output.atomic import write_text
from fittest.runs.output.survivors import lineage, read_survivors

_SEPARATOR = "; "
"""Stands between the licences, or the sources, of an offspring whose ancestors had several."""

_NOT_STATED = "not stated"

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


def write_card(folder: Path) -> Path:
    """Writes the data card of a run's or a filter's folder to its card.md, and returns that path."""
    card = folder / "card.md"
    write_text(card, data_card(folder, read_survivors(folder)))
    return card


def data_card(folder: Path, survivors: pl.DataFrame, exports: Sequence[str] = (), *, title: str | None = None) -> str:
    """Returns the card as Markdown; every figure is computed from the tables in `folder`.

    Args:
        folder: the folder of a run or a filter.
        survivors: its survivors.parquet.
        exports: lines about the files that were exported from it.
        title: what the card is about; None takes the name of the folder.
    """
    sections = [
        f"# Data card: {title or folder.resolve().name}",
        *_contents(folder, survivors, exports),
        *_making(folder),
        *_origin("licence", survivors["licence"]),
        *_origin("source", survivors["source"]),
        *_counts("Generations", "generation", survivors["generation"]),
        *_counts("Operators", "operator", survivors["operator"]),
        *_lineage(folder, survivors),
        *_use(folder, survivors),
    ]
    return "\n\n".join(sections) + "\n"


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
    named = {part for value in values for part in _parts(value)}
    by_name = {name: _hub_licence(name) for name in sorted(named - {_NOT_STATED})}
    known = sorted({known for known in by_name.values() if known is not None})
    others = [_slug(name) for name, known in by_name.items() if known is None]
    unstated = ["unknown"] if _NOT_STATED in named or not complete or not named else []
    licences = {"license": [*known, *(["other"] if others else []), *unstated]}
    return licences | ({"license_name": "-and-".join(dict.fromkeys(others))} if others else {})


def _hub_licence(name: str) -> str | None:
    """Returns a hub's name of a licence, or None; SPDX writes "GPL-3.0-only" and "ODC-By-1.0", for instance."""
    slug = _slug(name)
    short = slug.removesuffix("-only").removesuffix("-or-later")
    return next((known for known in (slug, short, short.removesuffix("-1.0")) if known in _HUB_LICENCES), None)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "other"


def _contents(folder: Path, survivors: pl.DataFrame, exports: Sequence[str]) -> list[str]:
    warnings = _json_file(folder / "summary.json").get("warnings", [])
    lines = [
        f"{survivors.height} prompts that passed rejection, each with the best and the worst of its sampled answers.",
        *exports,
        *(f"Warning: {warning}" for warning in warnings),
    ]
    return ["\n".join(f"- {line}" for line in lines)]


def _making(folder: Path) -> list[str]:
    """Lists engine, reward and cuts as far as the folder records them; a filter's folder records no engine."""
    config = _toml_file(folder / "run.toml")
    thresholds = _json_file(folder / "thresholds.json")
    facts = {
        **{f"{table} {key}": config.get(table, {}).get(key) for table in ("engine", "reward") for key in _MADE_WITH},
        **{
            f"{part} fingerprint": print_ for part, print_ in config.get("fittest", {}).get("fingerprints", {}).items()
        },
        **{key.replace("_", " "): value for key, value in thresholds.items() if key != "schema"},
    }
    rows = [(name, value) for name, value in facts.items() if value is not None]
    return ["## How it was made", _table(("what", "value"), rows)]


_MADE_WITH = ("kind", "model")


def _origin(what: str, values: pl.Series) -> list[str]:
    """Counts the values of a joined column, whole and split: an offspring carries the values of all its ancestors."""
    total = len(values)
    whole = Counter(value or _NOT_STATED for value in values)
    single = Counter(part for value in values for part in _parts(value))
    rows = [(part, count, whole[part], _share(whole[part], total)) for part, count in _ranked(single)]
    return [
        f"## {what.capitalize()}s",
        f"Of the prompt itself, and for offspring of all its ancestors in the pool, joined by `{_SEPARATOR.strip()}`.",
        _table((f"{what} as carried", "survivors"), _ranked(whole)),
        _table((what, "survivors with it", "survivors with it alone", "share with it alone"), rows),
    ]


def _counts(title: str, name: str, values: pl.Series) -> list[str]:
    return [f"## {title}", _table((name, "survivors"), sorted(Counter(values).items()))]


def _lineage(folder: Path, survivors: pl.DataFrame) -> list[str]:
    found = lineage(folder, survivors)
    if found is None:
        return ["## Lineage", "Not on record: the folder lacks generations that the survivors descend from."]
    if not found.depths:
        return ["## Lineage", "No survivors."]
    rows = [
        (name, f"{fmean(numbers):.2f}", max(numbers))
        for name, numbers in (
            ("births between a survivor and the pool, longest way", found.depths),
            ("pool prompts among its ancestors", found.pool_ancestors),
        )
    ]
    return ["## Lineage", _table(("per survivor", "mean", "most"), rows)]


def _use(folder: Path, survivors: pl.DataFrame) -> list[str]:
    licences = sorted({part for value in survivors["licence"] for part in _parts(value)} - {_NOT_STATED})
    unstated = sum(value is None for value in survivors["licence"])
    lines = [
        f"These licences are named: {', '.join(licences)}." if licences else "No licence is named.",
        "A row that names several is bound by each of them; the table above says how many rows that is.",
        f"For {unstated} of {survivors.height} survivors no licence is stated: find it out before passing them on.",
        f"The answers, and the prompts of every operator but pool, were written by {_author(folder)}; "
        "that model's terms apply to them and are not in this table.",
        "Chosen and rejected are a reward's ranking of sampled answers, not a human's; nothing is checked for truth.",
        "Prompts are kept because their worst answer scores well: the set says little about prompts that are hard.",
        "This card counts; it is not legal advice.",
    ]
    return ["## What it may be used for", "\n".join(f"- {line}" for line in lines)]


def _author(folder: Path) -> str:
    engine = _toml_file(folder / "run.toml").get("engine", {})
    if "model" in engine:
        return str(engine["model"])
    return f"the engine {engine['kind']!r}" if "kind" in engine else "a model that is not on record"


def _parts(value: str | None) -> Sequence[str]:
    return value.split(_SEPARATOR) if value else (_NOT_STATED,)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _json_file(path: Path) -> Mapping[str, Any]:
    return _parsed(path, json.loads)


def _toml_file(path: Path) -> Mapping[str, Any]:
    return _parsed(path, tomllib.loads)


def _parsed(path: Path, parse: Any) -> Mapping[str, Any]:
    """Returns the content of a file, or nothing if the folder has no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FittestError(f"{path}: cannot be read ({error})") from error
