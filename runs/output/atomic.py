"""Writes whole files or none: each file gets a temporary name first, is flushed, and is then renamed into place."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible_json

if TYPE_CHECKING:
    import polars as pl

Sealing = Callable[[str], None]
"""Takes the SHA-256 of a file's content, in hexadecimal digits."""
TEMPORARY = ".fittest-*.tmp"
"""What is unfinished has such a name; it is locked by the process that writes it, for as long as that is alive."""


@contextmanager
def _replacing(path: Path, sealing: Sealing | None = None) -> Iterator[BinaryIO]:
    """Opens a binary file that replaces `path` when the block succeeds, and is deleted when the block fails.

    Missing parent folders are created.

    Args:
        path: the file to replace or create.
        sealing: receives the hash of the content before the file gets its name.

    Raises:
        FittestError: the file system refuses, for example because the disk is full or the folder is read-only.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished_file(path.parent) as (temporary, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sealing is not None:
                with temporary.open("rb") as content:
                    sealing(hashlib.file_digest(content, "sha256").hexdigest())
            # while it is still open, and therefore locked: what nobody has locked is removed as a dead process's
            temporary.replace(path)
            flush_folder(path.parent)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from error


@contextmanager
def _unfinished_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Opens a new file that is deleted at the end, unless it was renamed."""
    while True:
        # a random name: two processes may write the same file, and a leftover of a killed one must not stop them
        temporary = temporary_name(folder)
        file = os.fdopen(_private(temporary), "wb")
        if lock_unfinished(file.fileno(), temporary):
            break
        file.close()
    with file:
        try:
            yield temporary, file
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def temporary_name(folder: Path) -> Path:
    """Returns a path in a folder for something unfinished."""
    return folder / TEMPORARY.replace("*", secrets.token_hex(8))


def lock_unfinished(descriptor: int, path: Path) -> bool:
    """Locks what this process has just created; returns False if another one took it for a leftover and removed it.

    Args:
        descriptor: the open file or folder.
        path: where it was created.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks, on which leftovers are not removed either
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def cannot_write(path: Path, error: OSError | ValueError) -> FittestError:
    """Returns the line for a user that says where and why the file system refused.

    Args:
        path: what was to be written; a name in a folder that is not finished is shown as the one that it would get.
        error: what the file system said.
    """
    if path.parent.match(TEMPORARY):
        path = path.parent.parent / path.name
    return FittestError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")


def _private(path: Path) -> int:
    """Returns the descriptor of a new file that its owner alone may read: it may hold prompts and paid answers."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def make_private(path: Path) -> None:
    """Makes an empty file that its owner alone may read, for a library that opens it by its name.

    A file that is there is left as it is, and one that cannot be made is left for the library to complain of.
    """
    with suppress(OSError):
        os.close(_private(path))


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 with its line ends as they are."""
    with _replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: object) -> None:
    """Writes indented JSON with keys in the order given; NaN and infinities are refused because JSON has none."""
    write_text(path, visible_json(json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)) + "\n")


def write_parquet(
    path: Path, frame: pl.DataFrame, *, metadata: Mapping[str, str] | None = None, sealing: Sealing | None = None
) -> None:
    """Writes a table; equal tables give equal bytes.

    Args:
        path: the file.
        frame: the table.
        metadata: texts to store in the file's own metadata, by key.
        sealing: receives the hash of the content before the file gets its name.
    """
    # how chunks in memory appear in a file is the library's choice; a single chunk leaves it none
    content = io.BytesIO()
    frame.rechunk().write_parquet(content, metadata=dict(metadata) if metadata else None)
    with _replacing(path, sealing) as file:
        file.write(content.getbuffer())


def write_parquet_in_pieces(
    path: Path,
    pieces: Iterator[pl.DataFrame],
    *,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    row_group_size: int,
    metadata: Mapping[str, str] | None = None,
    sealing: Sealing | None = None,
) -> None:
    """Writes a table that need not fit into memory; equal pieces give equal bytes.

    Args:
        path: the file.
        pieces: the table, in order; a piece is made when those before it are nearly written.
        schema: the columns of each piece.
        row_group_size: the number of rows that are compressed together.
        metadata: texts to store in the file's own metadata, by key.
        sealing: receives the hash of the content before the file gets its name.

    Raises:
        FittestError: the file system refuses.
    """
    import polars as pl
    from polars.io.plugins import register_io_source

    def source(columns: list[str] | None, *_: object) -> Iterator[pl.DataFrame]:
        for piece in pieces:
            yield piece if columns is None else piece.select(columns)

    # a scan of files would do as well, but each thread of polars reads some of them ahead
    table = register_io_source(source, schema=dict(schema))
    facts = dict(metadata) if metadata else None
    with _replacing(path, sealing) as file:
        try:
            table.sink_parquet(file, row_group_size=row_group_size, maintain_order=True, metadata=facts)
        except pl.exceptions.PolarsError as error:
            # polars wraps what the operating system says about a full disk
            raise cannot_write(path, ValueError(str(error).partition(chr(10))[0])) from error


def flush_folder(folder: Path) -> None:
    """Flushes the folder's own entries, so that the rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
