"""Lets Parquet files in: each is read on trial in another process, which damaged files may end and bombs may fill."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.runs.reading.files import check_regular, shown
from fittest.runs.reading.limits import FileLimits, file_limits

if TYPE_CHECKING:
    import polars as pl

_CHILD = Path(__file__).with_name("parquet_child.py")

_BESIDES = 512 << 20
"""Bytes that the other process needs beside the texts: Polars itself, and pages while they are decompressed."""

_SECONDS = 600.0


def check_parquet(path: Path, columns: Collection[str] | None = (), *, ours: str = "") -> tuple[str, ...]:
    """Reads some columns of a file on trial, so that this process can read them without harm.

    Args:
        path: the file.
        columns: those that will be read; None reads all of them.
        ours: what table of ours it is, for messages; such a table may be as large as it likes.

    Returns:
        The names of all its columns.

    Raises:
        FittestError: the file is missing or damaged, or holds more than the limits.
    """
    size = check_regular(path)
    if not size:
        raise FittestError(f"{shown(path)}: not a readable {ours or 'Parquet file'} (it is empty)")
    limits = file_limits()
    wanted = None if columns is None else sorted(columns)
    bounds = {"rows": 0, "content": 0, "cell": 0, "memory": None} if ours else _bounds(limits)
    answer = _child.ask({"path": str(path), "columns": wanted, **bounds})
    if "died" in answer or "problem" in answer:
        reason = f"its reader {answer['died']}" if "died" in answer else visible(answer["problem"])
        memory = f", or to read it takes more memory than its limits allow; {limits.remedy}"
        raise FittestError(
            f"{shown(path)}: not a readable {ours or 'Parquet file'} ({reason})"
            + (memory if "died" in answer and not ours else "")
        )
    if "excess" in answer:
        raise FittestError(f"{shown(path)}: {_excess(answer, limits)}; {limits.remedy}")
    return tuple(answer["columns"])


def _bounds(limits: FileLimits) -> dict[str, int]:
    return {
        "rows": limits.rows,
        "content": limits.content,
        "cell": limits.cell,
        "memory": limits.content * 3 // 2 + _BESIDES,
    }


def _excess(answer: dict[str, Any], limits: FileLimits) -> str:
    if answer["excess"] == "rows":
        return f"has {answer['rows']:,} rows, and the limit of rows is {limits.rows:,}"
    if answer["excess"] == "cell":
        return f"has a cell of more than {limits.cell_mib}, the limit of a cell"
    return f"holds more than {limits.mib} MiB of text, the limit of a file"


def read_table(path: Path, columns: Sequence[str] = (), *, what: str = "table of a run") -> pl.DataFrame:
    """Returns a table that fittest wrote.

    Args:
        path: the file.
        columns: those that are read; without any, all.
        what: what to call it in messages.

    Raises:
        FittestError: the file is missing or damaged, or lacks a column.
    """
    import polars as pl

    there = check_parquet(path, columns or None, ours=what)
    if missing := [name for name in columns if name not in there]:
        raise FittestError(f"{shown(path)}: not a readable {what} (it lacks the columns {', '.join(missing)})")
    # without glob=False, a * or [ in the file's name would be a pattern
    return pl.read_parquet(path, columns=list(columns) or None, glob=False)


class _Child:
    """The process that reads files on trial; it ends by itself when it is not needed for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._of = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer, or how the process died of the request."""
        line = f"{json.dumps(request)}\n".encode()
        with self._lock:
            while True:
                process = self._started()
                answer = _said(process, line)
                if answer is not None:
                    return answer
                ended = self._end()
                # it was about to end, since it had been idle
                if ended != "ended by itself":
                    return {"died": ended}

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process is not None and self._of == os.getpid():
                self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        # a process that was forked from this one would share the pipes
        if self._process is None or self._of != os.getpid():
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a panic writes pages
            )
            self._of = os.getpid()
        return self._process

    def _end(self) -> str:
        """Ends the process, and says how it ended."""
        process, self._process = self._process, None
        assert process is not None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was written for it is not wanted any more
                pipe.close()
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return "took too long"
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return "ended by itself" if not status else f"ended with status {status}"


def _said(process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
    """Returns what a process says to a request; None if it ends or is silent."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    return _line(process.stdout)


def _line(pipe: IO[bytes]) -> dict[str, Any] | None:
    if not select.select([pipe], [], [], _SECONDS)[0]:
        return None
    line = pipe.readline()
    return json.loads(line) if line.endswith(b"\n") else None


_child = _Child()
atexit.register(_child.close)
