"""Writes constraints.txt, and locks/: the hashes of all files, and the lowest versions that pyproject.toml allows.

It pins what is installed beside it, which is what the tests ran with. It asks `uv` for the packages that other
systems and Pythons need besides, and for the hashes of all files of each version.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("archive", "embedded", "openai", "train", "bench", "dev")
"""All but vllm, which has an environment and constraints of its own."""

LOCKS = {"embedded": ("embedded",), "dev": EXTRAS}
"""The files of hashes: what `make demo` installs, and what `make test` installs."""

OLDEST_PYTHON = "3.11"
_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
"""Of torch there are many builds of one version, each with other files and companions: no hash holds for all."""

_OF_EVERY_ENVIRONMENT = ("pip", "setuptools")
"""A new environment brings them along, in whichever version its Python has."""

_ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<marker> ; [^\\]+?)?(?P<hashes>(?: \\\n +--hash=\S+)*)\n"
)


def closure(distribution: str, extras: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Yields name and version of everything installed that a distribution needs, without itself.

    Args:
        distribution: the name of the distribution.
        extras: those of its extras that count.
    """
    seen: set[tuple[str, str]] = set()
    left = [(distribution, extra) for extra in ("", *extras)]
    named: set[str] = set()
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed, or a package of another system
        if name not in named and name not in (distribution, *_OF_EVERY_ENVIRONMENT):
            named.add(name)
            yield name, found.version.partition("+")[0]
        for line in found.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(wanted.name), one) for one in ("", *wanted.extras)]


def compiled(extras: Sequence[str], *options: str, pins: Iterable[tuple[str, str]] = ()) -> str:
    """Returns what uv resolves for some of our extras, as it would stand in a file of requirements.

    Args:
        extras: the names of extras.
        options: further options of uv.
        pins: names and versions that uv has to take, where it takes the package at all.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("uv is not installed; pip install uv")
    wanted = [part for extra in extras for part in ("--extra", extra)]
    command = [
        uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", OLDEST_PYTHON,
        "--constraints", "-", *wanted, *options, "pyproject.toml",
    ]  # fmt: skip
    stated = "".join(f"{name}=={version}\n" for name, version in pins)
    return subprocess.run(command, cwd=ROOT, input=stated, check=True, text=True, stdout=subprocess.PIPE).stdout


def write() -> None:
    """Writes the constraints and the hashes."""
    pins = sorted(closure("fittest", EXTRAS))
    both = {name: compiled(extras, "--universal", "--generate-hashes", pins=pins) for name, extras in LOCKS.items()}
    everything = "".join(
        f"{entry['name']}=={entry['version']}{entry['marker'] or ''}\n" for entry in entries(both["dev"])
    )
    (ROOT / "constraints.txt").write_text(f"{_CONSTRAINTS_SAY}{everything}")
    (ROOT / "locks" / "lowest.txt").write_text(f"{_LOWEST_SAYS}{_lowest(dict(pins)['torch'])}")
    for name, text in both.items():
        hashed = "".join(entry[0] for entry in entries(text) if not _TORCH.fullmatch(entry["name"]))
        (ROOT / "locks" / f"{name}.txt").write_text(f"{_LOCKS_SAY}{hashed}")


def entries(text: str) -> list[re.Match[str]]:
    """Returns the entries of a file of requirements that uv has written."""
    found = list(_ENTRY.finditer(text))
    left = _ENTRY.sub("", text).strip()
    if left:
        sys.exit(f"cannot read what uv has written: {left[:200]}")
    return found


def _lowest(torch: str) -> str:
    text = compiled(EXTRAS, "--resolution", "lowest-direct", pins=[("torch", torch)])
    return "".join(entry[0] for entry in entries(text) if not _TORCH.fullmatch(entry["name"]))


_CONSTRAINTS_SAY = """\
# What the tests ran with, whole: every package that fittest or an extra needs on any system. `make constraints` writes
# this file. torch is pinned so that a machine without a GPU does not fetch gigabytes of CUDA.
"""
_LOCKS_SAY = """\
# The files that `make` installs, with the SHA-256 of each. `make constraints` writes this. torch is missing: there are
# many builds of one version, and which of them is right depends on the machine.
"""

_LOWEST_SAYS = """\
# The lowest versions that pyproject.toml allows, for `make test-lowest`. `make constraints` writes this. Of torch the
# tests take the pinned version, since older ones for machines without a GPU are on no common index.
"""

if __name__ == "__main__":
    write()
