"""Looks at this machine: what fittest needs, what is there, and what to do about the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from runs.models import MODELS, cache_folder, verify

_OLDEST_PYTHON = (3, 11)
_BYTES_FREE_AT_LEAST = 1_000_000_000
_PROBE_SECONDS = 180
_EXTRAS = ("embedded", "openai", "vllm", "ray", "train", "view")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `ok` is None for what is optional and absent; `remedy` says what mends it."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; what cannot be looked at becomes a finding too, never an exception."""
    findings: list[Finding] = []
    for look in (_python, _packages, _models, _engines, _disk, _processors):
        try:
            findings += look()
        except Exception as error:  # a doctor that falls ill helps nobody
            findings.append(Finding(look.__name__.strip("_"), False, f"cannot be looked at: {error}"))
    return findings


def _python() -> Iterator[Finding]:
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    good = sys.version_info >= _OLDEST_PYTHON
    yield Finding("Python", good, sys.version.split()[0], "" if good else f"install Python {wanted} or later")


def _packages() -> Iterator[Finding]:
    """One finding for each package that fittest's own metadata names, core first, then extra by extra."""
    try:
        requirements = metadata.requires("fittest") or []
    except metadata.PackageNotFoundError:
        yield Finding("fittest", False, "its metadata is missing", "install it: pip install -e .")
        return
    for requirement in requirements:
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra is None or extra[1] in _EXTRAS:
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
    """The first three numbers of a version."""
    return [*(int(number) for number in re.findall(r"\d+", version)), 0, 0, 0][:3]


def _models() -> Iterator[Finding]:
    for name in MODELS:
        found = verify(name)
        detail = {"ready": f"{found.path}, every SHA-256 right", "absent": "not fetched", "damaged": found.detail}
        ok = {"ready": True, "absent": None, "damaged": False}[found.state]
        yield Finding(f"model {name}", ok, detail[found.state], "" if ok else f"fittest models pull {name}")


def _engines() -> Iterator[Finding]:
    """Each probe runs in a process of its own: a library built for another processor ends it without a word."""
    yield _probe("torch device", "probe_torch", needs="torch")
    yield _probe("llama.cpp answers", "probe_llamacpp", needs="xllamacpp", model="smollm2-135m")
    yield _probe("MiniLM embeds", "probe_minilm", needs="sentence-transformers", model="minilm")


def _probe(name: str, function: str, *, needs: str, model: str | None = None) -> Finding:
    try:
        metadata.version(needs)
    except metadata.PackageNotFoundError:
        return Finding(name, None, f"not tried: {needs} is not installed")
    found = verify(model) if model else None
    if found and found.state != "ready":
        return Finding(name, None, f"not tried: the model {model} is {found.state}")
    program = f"import sys; from runs.doctor import {function}; {function}(*sys.argv[1:])"
    ok, detail = _run_alone(program, *([str(found.path)] if found else []))
    return Finding(name, ok, detail, "" if ok else f"pip install --force-reinstall {needs}")


def _run_alone(program: str, *arguments: str) -> tuple[bool, str]:
    """Whether a program ends well in a process of its own, and the last thing it said."""
    command = [sys.executable, "-c", program, *arguments]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS, env=offline, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {_PROBE_SECONDS} seconds"
    if done.returncode == 0:
        return True, _last_line(done.stdout)
    return False, f"ended by signal {-done.returncode}" if done.returncode < 0 else _last_line(done.stderr)


def probe_torch() -> None:
    """Write the device that torch would use; run by `examine` in a process of its own."""
    import torch

    if torch.cuda.is_available():
        sys.stdout.write(f"cuda: {torch.cuda.get_device_name()}\n")
    elif torch.backends.mps.is_available():
        sys.stdout.write("mps\n")
    else:
        sys.stdout.write(f"cpu, {torch.get_num_threads()} threads\n")


def probe_llamacpp(path: str) -> None:
    """Ask a GGUF model for one token; run by `examine` in a process of its own."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 512
    parameters.warmup = False
    parameters.verbosity = -1
    request = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 1}
    reply = xllamacpp.Server(parameters).handle_chat_completions(request)
    sys.stdout.write(f"\n{reply['usage']['completion_tokens']} token from {Path(path).name}\n")


def probe_minilm(path: str) -> None:
    """Embed one text; run by `examine` in a process of its own."""
    from sentence_transformers import SentenceTransformer

    vector = SentenceTransformer(path, device="cpu").encode("hello")
    sys.stdout.write(f"\n{len(vector)} dimensions\n")


def _disk() -> Iterator[Finding]:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    good = free >= _BYTES_FREE_AT_LEAST
    remedy = "" if good else "free some space, or set FITTEST_CACHE to another disk"
    yield Finding("free disk", good, f"{free / 1e9:.1f} GB at {folder}", remedy)


def _processors() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processors", True, f"{usable} usable of {os.cpu_count()}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1].strip()
