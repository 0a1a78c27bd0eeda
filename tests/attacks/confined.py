"""Runs a command in a process of its own, and tells what it said, how long it took and how much memory it needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

MOST_MIB = 1536
"""Peak memory that nothing which a server or a file sends may exceed."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status; −signal if it was killed by one.
        stdout: what it wrote.
        stderr: what it wrote there.
        seconds: how long it took.
        peak_mib: its largest resident memory, looked at every 20 ms.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak_mib: float

    @property
    def traceback(self) -> bool:
        """Tells whether a user would have seen a traceback."""
        return "Traceback (most recent call last)" in self.stdout + self.stderr

    @property
    def last_line(self) -> str:
        """Returns the last line on standard error."""
        return (self.stderr.strip().splitlines() or [""])[-1]


def fittest(*arguments: object, seconds: float = 300.0, **more: object) -> Ended:
    """Runs a verb of the command line as a user would."""
    code = "import sys; from fittest.runs.cli import main; main(prog_name='fittest')"
    return confined([sys.executable, "-c", code, *map(str, arguments)], seconds=seconds, **more)  # type: ignore[arg-type]


def confined(
    command: Sequence[str],
    *,
    seconds: float = 300.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Runs a command; one that takes too long is killed, which its status tells.

    Args:
        command: the program and its arguments.
        seconds: when to kill it.
        cwd: its working folder.
        env: variables that are added to those of this process.
        kill_after: sends SIGKILL after so many seconds, as a test of crashes wants it.
    """
    began = time.monotonic()
    limit = seconds if kill_after is None else min(seconds, kill_after)
    with TemporaryFile() as out, TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=cwd, env={**os.environ, **(env or {})},
            start_new_session=True,
        )  # fmt: skip
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            if time.monotonic() - began > limit:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(0.02)
        took = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        return Ended(process.returncode, _text(out.read()), _text(err.read()), took, peak)


def _peak_mib(pid: int) -> float:
    # what wait4 tells of a child includes the memory of the process that it was forked from
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # it has ended in this moment
    return 0.0


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
