"""Prepares what is published of a run: the tables of each configuration, the card, and the run's configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from fittest.evo.errors import FittestError
from fittest.runs.output.atomic import write_parquet
from fittest.runs.output.card import data_card
from fittest.runs.output.export import export
from fittest.runs.output.hub_card import front_matter
from fittest.runs.output.public import public_tables, public_text
from fittest.runs.output.sealed import refuse_changed
from fittest.runs.output.survivors import read_survivors
from fittest.runs.reading.objects import check_shape, read_object

_EXPORTS = {"pairs": "trl-preference", "prompts": "prompts"}
"""The configurations that are exports, and the exporter of each."""

_RESPONSES = "responses"

_CARD_FILE = "README.md"
_CONFIGURATION_FILE = "run.toml"

_FINGERPRINT_COLUMNS = ("engine", "reward_id")
"""Columns that name a model, and the name of a served model may be its path."""


@dataclass(frozen=True, slots=True)
class _Configuration:
    """One configuration of the data set.

    Attributes:
        name: its name.
        files: its tables on this machine; none if it has no rows.
        rows: the rows of all its tables.
        said: a line about it; if it has no rows, the reason.
    """

    name: str
    files: Sequence[Path]
    rows: int
    said: str

    def paths(self) -> list[str]:
        """Returns the names of its tables in the data set."""
        return [
            f"{self.name}/train-{number:05d}-of-{len(self.files):05d}.parquet" for number in range(len(self.files))
        ]


@dataclass(frozen=True, slots=True)
class HubContents:
    """Holds all that is published.

    Attributes:
        configurations: the configurations that have rows.
        absent: for each of the others the reason.
        texts: the files that are text.
    """

    configurations: Sequence[_Configuration]
    absent: Mapping[str, str]
    texts: Mapping[str, str]

    @property
    def rows(self) -> dict[str, int]:
        """Returns the number of rows of each configuration."""
        return {configuration.name: configuration.rows for configuration in self.configurations}

    def files(self) -> dict[str, Path | bytes]:
        """Returns every file by its path in the data set: a file on this machine, or the content."""
        files: dict[str, Path | bytes] = {path: text.encode() for path, text in self.texts.items()}
        for configuration in self.configurations:
            files.update(zip(configuration.paths(), configuration.files, strict=True))
        return files


def contents_of(folder: Path, temporary: Path, name: str) -> HubContents:
    """Writes the tables to a temporary folder, and returns all that is published.

    Args:
        folder: the folder of a run or a filter.
        temporary: an empty folder.
        name: owner/name of the data set.

    Raises:
        FittestError: a table or run.toml cannot be read.
    """
    private = _Private(folder, _tables(folder))
    found = [*(_exported(kind, private, temporary) for kind in _EXPORTS), _responses(private, temporary)]
    configurations = [configuration for configuration in found if configuration.rows]
    absent = {configuration.name: configuration.said for configuration in found if not configuration.rows}
    return HubContents(configurations, absent, _texts(private, configurations, name))


def is_ours(path: str) -> bool:
    """Tells whether a file in a data set is one that an earlier publication may have left."""
    return path == _CONFIGURATION_FILE or path.startswith(tuple(f"{name}/train-" for name in (*_EXPORTS, _RESPONSES)))


@dataclass(frozen=True, slots=True)
class _Private:
    """Holds a folder and its run.toml as they are, and says what of them may be published."""

    folder: Path
    tables: Mapping[str, Any]

    def text(self, text: str) -> str:
        """Returns a text that may be published."""
        return public_text(text, self.tables, self.folder)

    def frame(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Returns a table that may be published."""
        for column in set(_FINGERPRINT_COLUMNS) & set(frame.columns):
            public = {known: self.text(known) for known in frame[column].drop_nulls().unique()}
            frame = frame.with_columns(pl.col(column).replace(public))
        return frame

    def configuration(self) -> str:
        """Returns run.toml as it may be published."""
        public = public_tables(self.tables)
        if known := self.tables.get("fittest", {}).get("fingerprints"):
            public["fittest"]["fingerprints"] = {part: self.text(str(print_)) for part, print_ in known.items()}
        return tomli_w.dumps(public)


def _tables(folder: Path) -> dict[str, Any]:
    """Returns the tables of run.toml as they are, or none: the folder of a filter has no such file."""
    path = folder / _CONFIGURATION_FILE
    if not path.is_file():
        return {}
    tables = read_object(path, parse=tomllib.loads)
    check_shape(path, tables, {"fittest": {"fingerprints": dict}}, partly=True)
    return tables


def _exported(name: str, private: _Private, temporary: Path) -> _Configuration:
    exporter, file = _EXPORTS[name], temporary / f"{name}.parquet"
    result = export(private.folder, to=exporter, out=file)
    if not result.rows:
        return _Configuration(name, [], 0, "no survivor gives a row")
    write_parquet(file, private.frame(pl.read_parquet(file, glob=False)))
    said = f"{name}: {result.rows} rows in the form of {exporter}, {result.skipped} survivors left out"
    return _Configuration(name, [file], result.rows, said)


def _responses(private: _Private, temporary: Path) -> _Configuration:
    """Joins every sealed table of responses with the prompts' texts, one generation at a time."""
    folder = private.folder
    # retest.parquet holds later draws, which decide nothing
    sealed = sorted(path for path in (folder / "responses").glob("*.parquet") if path.stem.isdecimal())
    files, rows = [], 0
    for path in sealed:
        frame = _with_prompts(path, folder / "generations" / path.name)
        if frame.height:
            files.append(temporary / f"responses-{path.name}")
            write_parquet(files[-1], private.frame(frame))
            rows += frame.height
    if not rows:
        return _Configuration(_RESPONSES, [], 0, f"{folder.resolve().name} holds no responses/NNNN.parquet with rows")
    said = f"{_RESPONSES}: {rows} rows, every answer that was drawn, also to prompts that did not survive"
    return _Configuration(_RESPONSES, files, rows, said)


def _with_prompts(responses: Path, generation: Path) -> pl.DataFrame:
    """Returns the responses of one generation with a column `prompt` beside `prompt_id`."""
    for path in (responses, generation):
        refuse_changed(path)
    try:
        frame = pl.read_parquet(responses, glob=False)
        prompts = pl.read_parquet(generation, columns=["prompt_id", "prompt"], glob=False).unique("prompt_id")
        joined = frame.join(prompts, on="prompt_id", how="left", maintain_order="left")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FittestError(f"{responses}: cannot be read with {generation} ({reason})") from error
    if joined["prompt"].null_count():
        raise FittestError(f"{responses}: holds responses to prompts that are not in {generation}")
    return joined.select("prompt_id", "prompt", pl.exclude("prompt_id", "prompt"))


def _texts(private: _Private, configurations: Sequence[_Configuration], name: str) -> dict[str, str]:
    """Returns the files of the data set that are text: the card, and the configuration if there is one."""
    survivors = read_survivors(private.folder)
    paths = {configuration.name: configuration.paths() for configuration in configurations}
    calls = ", ".join(f'datasets.load_dataset("{name}", "{kind}")' for kind in paths)
    said = [*(configuration.said for configuration in configurations), f"Read with {calls}."]
    head = front_matter(survivors, paths, title=name.partition("/")[2], complete=_RESPONSES not in paths)
    card = data_card(private.folder, survivors, said, title=name, public=private.text)
    texts = {_CARD_FILE: head + card}
    return texts | ({_CONFIGURATION_FILE: private.configuration()} if private.tables else {})
