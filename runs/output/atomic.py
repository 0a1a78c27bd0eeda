"""Whole files or none: every file of a run is written under a temporary name, flushed, and renamed into place."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    import polars as pl


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Missing parent folders are made.

    Raises:
        FittestError: the file system refused, for example a full disk or a read-only folder.
    """
    temporary = path.with_name(f".fittest-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise FittestError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, line ends as they are."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: object) -> None:
    """Write readable JSON, keys in the order given; NaN and infinities are refused, for JSON has none."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_parquet(path: Path, frame: pl.DataFrame, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table; equal tables give equal bytes, however their columns are chunked in memory."""
    content = io.BytesIO()
    frame.rechunk().write_parquet(content, metadata=dict(metadata) if metadata else None)
    with replacing(path) as file:
        file.write(content.getbuffer())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
