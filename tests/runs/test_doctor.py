"""The doctor looks at everything, says what to do, and never falls over."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from runs import doctor
from runs.doctor import Finding, examine
from runs.models import pull

PROBED = ("torch device", "llama.cpp answers", "MiniLM embeds")


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what starts another process."""
    monkeypatch.setattr(doctor, "_probe", lambda name, *_, **__: Finding(name, True, ""))


@pytest.mark.usefixtures("no_probes")
def test_python_packages_disk_and_processors_are_looked_at() -> None:
    findings = named(examine())
    assert findings["Python"].ok
    assert findings["polars"].detail == metadata.version("polars")
    assert {"numpy", "xllamacpp (embedded)", "vllm (vllm)", "model minilm", "processors", *PROBED} <= findings.keys()
    assert findings["free disk"].ok is not None
    assert not any(name.startswith(("pytest", "ruff")) for name in findings)


@pytest.mark.usefixtures("no_probes")
def test_whatever_is_not_well_comes_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTEST_CACHE", str(tmp_path / "not" / "there" / "yet"))
    findings = named(examine())
    assert findings["model minilm"] == Finding("model minilm", None, "not fetched", "fittest models pull minilm")
    assert findings["free disk"].detail.endswith(f"at {tmp_path}")
    assert all(finding.remedy for finding in findings.values() if not finding.ok)


@pytest.mark.parametrize(
    ("requirement", "extra", "ok", "detail"),
    [
        ("numpy>=1.0", None, True, "1.10"),
        ("numpy>=1.9; extra == 'view'", "view", True, "1.10"),
        ("numpy[all]>=1.10.1", None, False, "1.10, needs 1.10.1 or later"),
        ("absent>=1", None, False, "not installed"),
        ("absent>=1", "ray", None, "not installed"),
    ],
)
def test_a_package_is_held_against_its_requirement(
    monkeypatch: pytest.MonkeyPatch, requirement: str, extra: str | None, ok: bool | None, detail: str
) -> None:
    def version(name: str) -> str:
        if name == "numpy":
            return "1.10"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = doctor._package(requirement, extra)
    assert (finding.ok, finding.detail) == (ok, detail)


@pytest.mark.usefixtures("no_probes")
def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise PermissionError("no entry")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    assert named(examine())["disk"] == Finding("disk", False, "cannot be looked at: no entry")


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("print('loading'); print('384 dimensions')", (True, "384 dimensions")),
        ("import os; os.kill(os.getpid(), 4)", (False, "ended by signal 4")),
        ("raise OSError('no such library')", (False, "OSError: no such library")),
        ("raise SystemExit(3)", (False, "it said nothing")),
        ("import time; time.sleep(60)", (False, "no answer in 2 seconds")),
    ],
)
def test_a_library_that_dies_or_hangs_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, program: str, answer: tuple[bool, str]
) -> None:
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 2)
    assert doctor._run_alone(program) == answer


def test_nothing_is_tried_without_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITTEST_CACHE", str(tmp_path))
    finding = doctor._probe("MiniLM embeds", "probe_minilm", needs="sentence-transformers", model="minilm")
    assert finding.ok is None
    assert finding.detail.startswith("not tried")


@pytest.mark.embedded
def test_the_embedded_engines_answer() -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("sentence_transformers")
    pull("smollm2-135m")
    pull("minilm")
    findings = named(examine())
    assert {name: findings[name].ok for name in PROBED} == dict.fromkeys(PROBED, True)
    assert findings["MiniLM embeds"].detail == "384 dimensions"
