"""Constraints, hashes and lowest versions cover whatever is declared, and all that this needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.constraints import EXTRAS, closure

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """The versions that a file names."""
    return dict(PIN.findall((ROOT / name).read_text(encoding="utf-8")))


def declared() -> dict[str, Requirement]:
    """All that pyproject.toml asks for, but for vLLM, which has constraints of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(wanted.name): wanted for wanted in map(Requirement, lines)}


def test_nothing_that_is_installed_for_us_floats() -> None:
    needed = {name for name, _ in closure("fittest", EXTRAS)}
    assert len(needed) > 60
    assert needed - pins("constraints.txt").keys() == set()


def test_every_pin_is_allowed_and_no_lower_bound_is_missing() -> None:
    versions = pins("constraints.txt")
    for name, wanted in declared().items():
        assert wanted.specifier.contains(versions[name]), name
        assert any(bound.operator == ">=" for bound in wanted.specifier), name


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    # the file leaves out torch, of which the pinned version is the lowest that is tested
    lowest = pins("locks/lowest.txt") | {"torch": pins("constraints.txt")["torch"]}
    for name, wanted in declared().items():
        bound = max(Version(one.version) for one in wanted.specifier if one.operator == ">=")
        assert Version(lowest[name]) == bound, name


@pytest.mark.parametrize("lock", ["embedded", "dev"])
def test_every_package_but_torch_has_the_hashes_of_its_files(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    versions, all_pins = pins(f"locks/{lock}.txt"), pins("constraints.txt")
    assert versions.items() <= all_pins.items()
    if lock == "dev":
        of_torch = all_pins.keys() - versions.keys()
        assert "torch" in of_torch
        assert all(re.match(r"torch|triton|nvidia-|cuda-", name) for name in of_torch)


def test_no_file_of_pins_names_an_index() -> None:
    for file in (*ROOT.glob("constraints*.txt"), *(ROOT / "locks").iterdir()):
        text = file.read_text(encoding="utf-8")
        assert "://" not in text, file
        assert not re.search(r"^-|==\S+\+", text, re.MULTILINE), file
