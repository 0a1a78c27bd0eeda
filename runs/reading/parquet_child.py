"""Reads Parquet files on trial, in a process that may be lost; `parquet` starts it and hears what came of each file.

Polars ends its process, or takes any amount of memory, on some damaged files. Nothing of fittest is imported here, so
that the process starts quickly.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# each thread reserves memory, which counts against the limit
os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl

_IDLE_SECONDS = 15.0
_ROWS_AT_ONCE = 100_000


def _main() -> None:
    """Answers one request on each line, until there is none for a while."""
    requests = sys.stdin.buffer
    while select.select([requests], [], [], _IDLE_SECONDS)[0]:
        line = requests.readline()
        if not line:
            return
        given = json.loads(line)
        _limit_memory(given.pop("memory"))
        sys.stdout.write(f"{json.dumps(_answer(given))}\n")
        sys.stdout.flush()


def _limit_memory(memory: int | None) -> None:
    most = resource.RLIM_INFINITY if memory is None else memory
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    # not every system has this limit
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _answer(given: dict[str, Any]) -> dict[str, Any]:
    try:
        return _tried(**given)
    # what Polars raises when it panics is no Exception, and nobody else interrupts this process
    except BaseException as error:
        return {"problem": _words(error)}


def _tried(path: str, columns: list[str] | None, rows: int, content: int, cell: int) -> dict[str, Any]:
    """Returns the columns and the number of rows of a file whose wanted columns can be read, or what is wrong."""
    scan = pl.scan_parquet(path, glob=False)
    names = scan.collect_schema().names()
    found = {"columns": names, "rows": scan.select(pl.len()).collect().item()}
    if rows and found["rows"] > rows:
        return found | {"excess": "rows"}
    wanted = [name for name in names if columns is None or name in columns]
    if not wanted:
        return found
    frame = scan.select(wanted).collect()
    if frame.height != found["rows"]:
        return {"problem": f"says that it has {found['rows']} rows, and has {frame.height}"}
    if content:
        sizes = list(_sizes(frame))
        if any(longest > cell for _, longest in sizes):
            return found | {"excess": "cell"}
        if sum(size for size, _ in sizes) > content:
            return found | {"excess": "content"}
    for start in range(0, frame.height, _ROWS_AT_ONCE):
        _look_at(frame.slice(start, _ROWS_AT_ONCE))
    return found


def _sizes(frame: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Yields the bytes of all texts of each column, and of the longest.

    A text that a million rows share is stored once, but counts in each: whoever reads the rows has it a million times.
    """
    for column in frame.iter_columns():
        yield from _size(column)


def _size(column: pl.Series) -> Iterator[tuple[int, int]]:
    kind = column.dtype
    if isinstance(kind, (pl.Categorical, pl.Enum)):
        yield from _size(column.cast(pl.String))
    elif kind in (pl.String, pl.Binary):
        lengths = column.str.len_bytes() if kind == pl.String else column.bin.size()
        yield int(lengths.cast(pl.UInt64).sum() or 0), int(lengths.max() or 0)  # type: ignore[arg-type]
    elif isinstance(kind, (pl.List, pl.Array)):
        lengths = column.list.len() if isinstance(kind, pl.List) else pl.Series([kind.size])
        # as many values as a row may have bytes
        yield int(lengths.cast(pl.UInt64).sum() or 0), int(lengths.max() or 0)  # type: ignore[arg-type]
        yield from _size(column.explode())
    elif isinstance(kind, pl.Struct):
        for field in kind.fields:
            yield from _size(column.struct.field(field.name))


def _look_at(frame: pl.DataFrame) -> None:
    """Makes Python's values of some rows: a text may prove not to be one, or a date not to exist."""
    for name, kind in frame.schema.items():
        if kind.is_nested() or kind.is_temporal() or kind == pl.Decimal:
            frame[name].to_list()


def _words(error: BaseException) -> str:
    if isinstance(error, (pl.exceptions.PolarsError, OSError)):
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return f"polars cannot read it: {str(error).strip().partition(chr(10))[0][:100] or type(error).__name__}"


if __name__ == "__main__":
    _main()
