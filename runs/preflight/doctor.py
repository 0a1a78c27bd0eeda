"""Looks at this machine, or at what one configuration needs of it, and says what to do about what is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.hiding import without_secret_variables
from fittest.runs.config.chosen import plug_ins_of
from fittest.runs.models import MODELS, cache_folder, verify
from fittest.runs.preflight.trials import MARK, Finding

if TYPE_CHECKING:
    from fittest.runs.config import Config

_OLDEST_PYTHON = (3, 11)
_BYTES_FREE_AT_LEAST = 1_000_000_000
_BYTES_WRITTEN = 32_000_000
_SLOWEST_DISK = 10e6
_TRIAL_SECONDS = 600
_EXTRAS = ("embedded", "openai", "vllm", "train")


def examine(config: Config | None = None, out: Path | None = None) -> Iterator[Finding]:
    """Looks at everything, and yields each finding as soon as it is made.

    What cannot be looked at becomes a finding too, and never an exception. Trials run meanwhile in other processes:
    those that import torch in one of them, since that takes longer than everything else.

    Args:
        config: the configuration to whose needs the look is limited; None looks at all that this machine has.
        out: the folder that a run would write to.
    """
    given = "" if config is None else config.model_dump_json()
    if config is None:
        groups = [["llama.cpp answers"], ["torch device", "MiniLM embeds"]]
        groups += [["vLLM"]] if find_spec("vllm") else []
        groups += [["plug-ins"]]
    else:
        plug_ins = ["plug-ins"] if any(plug_ins_of(config)) else []
        groups = [
            [*plug_ins, "pool", "engine answers"],
            ["torch device", "embedder embeds", "reward scores"],
        ]
    trials = [_Trials(given, names) for names in groups]
    try:
        # the trials of a configuration show which extras it needs
        yield from _safely("Python", _python)
        yield from _safely("packages", lambda: _packages(_EXTRAS if config is None else ()))
        yield from _safely("processors", _processors)
        yield from _safely("NVIDIA driver", _driver)
        if config is None:
            yield from _safely("models", _models)
        yield from _safely("disk", lambda: _disks(out or Path()))
        for trial in trials:
            yield from trial.findings()
    finally:
        for trial in trials:
            trial.end()


def _safely(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:  # one thing that cannot be looked at must not hide the others
        yield Finding(name, False, f"cannot be looked at: {error}", "look at it yourself")


def _python() -> Iterator[Finding]:
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    good = sys.version_info >= _OLDEST_PYTHON
    yield Finding("Python", good, sys.version.split()[0], "" if good else f"install Python {wanted} or later")


def _packages(extras: Sequence[str]) -> Iterator[Finding]:
    """Yields a finding for each package that fittest's own metadata names, core first, then extra by extra."""
    try:
        requirements = metadata.requires("fittest") or []
    except metadata.PackageNotFoundError:
        yield Finding("fittest", False, "its metadata is missing", "install it: pip install -e .")
        return
    for requirement in requirements:
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra is None or extra[1] in extras:
            yield _package(requirement, extra[1] if extra else None)


def _package(requirement: str, extra: str | None) -> Finding:
    name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]
    oldest = re.search(r">=\s*([\d.]+)", requirement)
    title = f"{name} ({extra})" if extra else name
    remedy = f"pip install 'fittest[{extra}]'" if extra else f"pip install '{requirement}'"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(title, None if extra else False, "not installed", remedy)
    if oldest and _release(found) < _release(oldest[1]):
        return Finding(title, False, f"{found}, needs {oldest[1]} or later", f"pip install --upgrade {name}")
    return Finding(title, True, found)


def _release(version: str) -> list[int]:
    """Returns the first three numbers of a version."""
    return [*(int(number) for number in re.findall(r"\d+", version)), 0, 0, 0][:3]


def _models() -> Iterator[Finding]:
    for name in MODELS:
        found = verify(name)
        detail = {"ready": f"{found.path}, every SHA-256 right", "absent": "not fetched", "damaged": found.detail}
        ok = {"ready": True, "absent": None, "damaged": False}[found.state]
        yield Finding(f"model {name}", ok, detail[found.state], "" if ok else f"fittest models pull {name}")


def _processors() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processors", True, f"{usable} usable of {os.cpu_count()}")


def _driver() -> Iterator[Finding]:
    """Yields what NVIDIA's driver says; another trial finds out whether torch can use it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding(
            "NVIDIA driver", None, "no nvidia-smi here", "on a machine with an NVIDIA GPU, install its driver"
        )
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(
        query, capture_output=True, text=True, errors="replace", timeout=20, check=False,
        env=without_secret_variables(os.environ),
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr or done.stdout).strip().splitlines()
        yield Finding("NVIDIA driver", False, said[-1] if said else "says nothing", "install or restart the driver")
    for line in lines if not done.returncode else []:
        yield Finding("NVIDIA driver", True, line)


def _disks(out: Path) -> Iterator[Finding]:
    for title, folder in (("cache disk", cache_folder()), ("output disk", out)):
        yield _disk(title, folder)


def _disk(title: str, wanted: Path) -> Finding:
    """Returns what was found about room, permission and speed of a folder, or of the one it would be made in."""
    folder = wanted.resolve()
    while not folder.exists():
        folder = folder.parent
    another = "set FITTEST_CACHE to another disk" if title == "cache disk" else "name another folder with --out"
    try:
        speed = _writing_speed(folder)
    except OSError as error:
        return Finding(title, False, f"{folder} cannot be written: {error.strerror}", another)
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free at {folder}, writes {speed / 1e6:.0f} MB/s"
    if free < _BYTES_FREE_AT_LEAST:
        return Finding(title, False, detail, f"free some space, or {another}")
    if speed < _SLOWEST_DISK:
        return Finding(title, True, detail, f"slow; a journal lives better on a local disk: {another}")
    return Finding(title, True, detail)


def _writing_speed(folder: Path) -> float:
    """Returns the bytes a second at which a file reaches the disk; the file is removed afterwards."""
    block = os.urandom(1_000_000)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(_BYTES_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _BYTES_WRITTEN / (time.perf_counter() - began)


class _Trials:
    """A process that tries things out one after another; it begins at once, and is read later."""

    def __init__(self, config: str, names: Sequence[str]) -> None:
        self._names = list(names)
        command = [sys.executable, "-m", "fittest.runs.preflight.trials", config, *names]
        # what is not here is to be named, not fetched
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by end()
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, errors="replace", env=offline
        )
        self._timed_out = False
        self._alarm = threading.Timer(_TRIAL_SECONDS, self._too_long)
        self._alarm.daemon = True
        self._alarm.start()

    def findings(self) -> Iterator[Finding]:
        """Yields each finding as soon as it is made; a process that ends too early is a finding as well."""
        missing = list(self._names)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                finding = Finding(**json.loads(line.removeprefix(MARK)))
                missing = [name for name in missing if name != finding.name]
                yield finding
        self._process.wait()
        for number, name in enumerate(missing):
            reason = "not reached" if number else self._end()
            yield Finding(name, False, reason, "pip install --force-reinstall the library that was loaded")

    def end(self) -> None:
        """Ends the process, if it is still running."""
        self._alarm.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _too_long(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _end(self) -> str:
        if self._timed_out:
            return f"no answer in {_TRIAL_SECONDS:g} seconds"
        if self._process.returncode < 0:
            return f"ended by signal {-self._process.returncode}"
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it said nothing"])[-1].strip()
