"""Reads Hugging Face data sets: `hf:owner/name[:split]`, and folders written by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.evo.pretrained.reachable import offline_without_hub
from fittest.evo.visible import visible
from fittest.runs.sources.table import Row, Table

_MARKS_OF_A_SAVED_SET = ("dataset_info.json", "dataset_dict.json")


def open_hub(location: str) -> Table:
    """Loads `owner/name[:split]` through the hub's own cache; the split is `train` if none is named."""
    name, _, split = location.partition(":")
    if "/" not in name:
        raise FittestError(f"hf:{location}: should be hf:owner/name[:split]")
    try:
        with offline_without_hub():
            loaded = _datasets(f"hf:{location}").load_dataset(name, split=split or "train")
    except FittestError:
        raise
    except Exception as error:  # the library has no common base for network, name and format errors
        raise FittestError(f"hf:{location}: cannot be loaded ({_one_line(error)})") from None
    return _table(name, loaded)


def open_saved(folder: Path) -> Table:
    """Loads a folder written by `save_to_disk`; if it has several splits, `train` is taken."""
    if not any((folder / mark).is_file() for mark in _MARKS_OF_A_SAVED_SET):
        raise FittestError(f"{folder}: is a folder; it should be a file, or a data set written by save_to_disk")
    datasets = _datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library has no common base for its errors
        raise FittestError(f"{folder}: cannot be loaded ({_one_line(error)})") from error
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise FittestError(f"{folder}: has no split 'train'; give the folder of one of {', '.join(loaded)}")
        loaded = loaded["train"]
    return _table(folder.name, loaded)


def _datasets(location: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FittestError(f"{location}: needs the package datasets: pip install datasets") from error
    return datasets


def _table(name: str, loaded: Any) -> Table:
    columns = tuple(loaded.column_names)

    def rows(wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
        # unwanted columns are dropped before rows are decoded: some hold images or long texts
        yield from enumerate(loaded.select_columns([column for column in columns if column in wanted]), 1)

    return Table(name, columns, "row", rows)


def _one_line(error: Exception) -> str:
    return visible(" ".join(str(error).split())[:400]) or type(error).__name__
