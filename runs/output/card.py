"""Writes the data card, which says what the survivors are, where they come from, and which licences they have."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from fittest.runs.output.atomic import write_text
from fittest.runs.output.markdown import markdown
from fittest.runs.output.survivors import lineage, read_survivors
from fittest.runs.reading.objects import Shape, check_shape, read_object

_SEPARATOR = "; "
"""Stands between the licences, or the sources, of an offspring whose ancestors had several."""

NOT_STATED = "not stated"


def write_card(folder: Path, *, title: str | None = None) -> Path:
    """Writes the data card of a run's or a filter's folder to its card.md, and returns that path.

    Args:
        folder: the folder.
        title: what the card is about; None takes the name of the folder.
    """
    card = folder / "card.md"
    write_text(card, data_card(folder, read_survivors(folder), title=title))
    return card


_SHAPE: Shape = {
    "warnings": list, "engine": dict, "proposer": dict, "reward": {"engine": dict}, "audit": {"engine": dict},
    "fittest": {"fingerprints": dict},
}  # fmt: skip
"""What a card reads of run.toml and summary.json, as far as it is there."""

_Writer = Callable[[object], str]
"""Writes a value that stands in a table or a file, so that it is text and nothing else in Markdown."""


def data_card(
    folder: Path,
    survivors: pl.DataFrame,
    exports: Sequence[str] = (),
    *,
    title: str | None = None,
    public: Callable[[str], str] = str,
) -> str:
    """Returns the card as Markdown; every figure is computed from the tables in `folder`.

    Args:
        folder: the folder of a run or a filter.
        survivors: its survivors.parquet.
        exports: lines about the files that were exported from it.
        title: what the card is about; None takes the name of the folder.
        public: returns a text less what must not be published.
    """

    def write(value: object) -> str:
        return markdown(public(f"{value:.6g}" if isinstance(value, float) else str(value)))

    sections = [
        f"# Data card: {write(title or folder.resolve().name)}",
        *_contents(folder, survivors, exports, write),
        *_making(folder, write),
        *_origin("licence", survivors["licence"], write),
        *_origin("source", survivors["source"], write),
        *_counts("Generations", "generation", survivors["generation"], write),
        *_counts("Operators", "operator", survivors["operator"], write),
        *_lineage(folder, survivors, write),
        *_use(folder, survivors, write),
    ]
    return "\n\n".join(sections) + "\n"


def _contents(folder: Path, survivors: pl.DataFrame, exports: Sequence[str], write: _Writer) -> list[str]:
    warnings = _json_file(folder / "summary.json").get("warnings", [])
    lines = [
        f"{survivors.height} prompts that passed rejection, each with the best and the worst of its sampled answers.",
        *map(write, exports),
        *(f"Warning: {write(warning)}" for warning in warnings),
    ]
    return ["\n".join(f"- {line}" for line in lines)]


def _making(folder: Path, write: _Writer) -> list[str]:
    """Lists engine, reward and cuts as far as the folder records them; a filter's folder records no engine."""
    config = _toml_file(folder / "run.toml")
    thresholds = _json_file(folder / "thresholds.json")
    facts = {
        **{f"{role} {key}": table.get(key) for role, table in _roles(config) for key in _MADE_WITH},
        **{
            f"{part} fingerprint": print_ for part, print_ in config.get("fittest", {}).get("fingerprints", {}).items()
        },
        **{key.replace("_", " "): value for key, value in thresholds.items() if key != "schema"},
    }
    rows = [(name, value) for name, value in facts.items() if value is not None]
    return ["## How it was made", _table(("what", "value"), rows, write)]


_MADE_WITH = ("kind", "model", "system")


def _roles(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the sections of what answers, writes offspring, scores and votes, each with its name."""
    for role in ("engine", "proposer", "reward", "audit"):
        yield role, config.get(role, {})
    for role in ("reward", "audit"):
        yield f"{role} engine", config.get(role, {}).get("engine", {})


def _origin(what: str, values: pl.Series, write: _Writer) -> list[str]:
    """Counts the values of a joined column, whole and split: an offspring carries the values of all its ancestors."""
    total = len(values)
    whole = Counter(value or NOT_STATED for value in values)
    single = Counter(part for value in values for part in parts_of(value))
    rows = [(part, count, whole[part], _share(whole[part], total)) for part, count in _ranked(single)]
    return [
        f"## {what.capitalize()}s",
        f"Of the prompt itself, and for offspring of all its ancestors in the pool, joined by `{_SEPARATOR.strip()}`.",
        _table((f"{what} as carried", "survivors"), _ranked(whole), write),
        _table((what, "survivors with it", "survivors with it alone", "share with it alone"), rows, write),
    ]


def _counts(title: str, name: str, values: pl.Series, write: _Writer) -> list[str]:
    return [f"## {title}", _table((name, "survivors"), sorted(Counter(values).items()), write)]


def _lineage(folder: Path, survivors: pl.DataFrame, write: _Writer) -> list[str]:
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
    return ["## Lineage", _table(("per survivor", "mean", "most"), rows, write)]


def _use(folder: Path, survivors: pl.DataFrame, write: _Writer) -> list[str]:
    licences = sorted({part for value in survivors["licence"] for part in parts_of(value)} - {NOT_STATED})
    unstated = sum(value is None for value in survivors["licence"])
    lines = [
        f"These licences are named: {', '.join(map(write, licences))}." if licences else "No licence is named.",
        "A row that names several is bound by each of them; the table above says how many rows that is.",
        f"For {unstated} of {survivors.height} survivors no licence is stated: find it out before passing them on.",
        *_written_by(folder, write),
        "Chosen and rejected are a reward's ranking of sampled answers, not a human's; nothing is checked for truth.",
        "Prompts are kept because their worst answer scores well: the set says little about prompts that are hard.",
        "This card counts; it is not legal advice.",
    ]
    return ["## What it may be used for", "\n".join(f"- {line}" for line in lines)]


def _written_by(folder: Path, write: _Writer) -> Iterator[str]:
    """Says whose terms apply to answers and to offspring, which another engine may have written."""
    config = _toml_file(folder / "run.toml")
    answers, prompts = "The answers", "the prompts of every operator but pool"
    terms = "that model's terms apply to them and are not in this table."
    if "proposer" not in config:
        yield f"{answers}, and {prompts}, were written by {write(_author(config.get('engine', {})))}; {terms}"
        return
    yield f"{answers} were written by {write(_author(config.get('engine', {})))}; {terms}"
    yield f"{prompts.capitalize()} were written by {write(_author(config['proposer']))}; {terms}"


def _author(engine: Mapping[str, Any]) -> str:
    if "model" in engine:
        return str(engine["model"])
    return f"the engine {engine['kind']!r}" if "kind" in engine else "a model that is not on record"


def parts_of(value: str | None) -> Sequence[str]:
    """Returns the single licences, or sources, of a joined one; what is not stated is one as well."""
    return value.split(_SEPARATOR) if value else (NOT_STATED,)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], write: _Writer) -> str:
    lines = [head, ["---"] * len(head), *([write(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _json_file(path: Path) -> Mapping[str, Any]:
    return _parsed(path, json.loads)


def _toml_file(path: Path) -> Mapping[str, Any]:
    return _parsed(path, tomllib.loads)


def _parsed(path: Path, parse: Any) -> Mapping[str, Any]:
    """Returns the content of a file, or nothing if the folder has no such file."""
    if not path.is_file():
        return {}
    found = read_object(path, parse=parse)
    check_shape(path, found, _SHAPE, partly=True)
    return found
