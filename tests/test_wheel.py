"""The wheel holds everything a run needs under one name, and works outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and with the wheel that is built from it as an installer would."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; libraries are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = built.glob("fittest-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "venv" / "bin"


@pytest.mark.slow
def test_wheel_and_sdist_hold_one_name_and_every_file_of_the_four_packages(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in in_wheel} == {
        "fittest",
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    listed = ["git", "ls-files", "evo", "fitness", "operators", "runs"]
    files = subprocess.check_output(listed, cwd=ROOT, text=True).split()
    assert len(files) > 150
    assert {f"fittest/{file}" for file in files} <= in_wheel & in_sdist
    # what `make` needs, and what tests read beside the packages
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split())
    links = {"fittest/evo", "fittest/fitness", "fittest/operators", "fittest/runs"}
    assert tracked - in_sdist - set(files) - links == set()


@pytest.mark.slow
def test_the_tests_run_from_an_unpacked_sdist(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / sdist.name.removesuffix(".tar.gz")
    some = ["tests/operators/test_parsing.py", "tests/runs/output/test_journal.py", "tests/test_constraints.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *some],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_the_wheel_holds_a_valid_bill_of_materials_that_names_every_dependency(built: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".dist-info/sboms/" in name)
        text = archive.read(name).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["name"] == "fittest"
    versions = {part["name"]: part["version"] for part in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert needed == {part["name"] for part in bill["components"] if part["scope"] == "required"}
    assert all(
        re.search(rf"^{name}=={re.escape(version)}( |$)", CONSTRAINTS, re.M) for name, version in versions.items()
    )
    assert len(versions) > 100


@pytest.mark.slow
def test_a_script_may_have_modules_of_our_names_beside_it(installed: Path, tmp_path: Path) -> None:
    for name in ("evo", "fitness", "operators", "runs"):
        (tmp_path / f"{name}.py").write_text(f"MINE = {name!r}\n")
    (tmp_path / "script.py").write_text(
        "import evo, fitness, operators, runs\n"
        "import fittest\n"
        "config = fittest.parse_config({\n"
        "    'pool': {'path': 'builtin:starter', 'limit': 12}, 'run': {'generations': 1},\n"
        "    'engine': {'kind': 'null', 'sampling': {'n': 2}}, 'reward': {'kind': 'null'},\n"
        "    'operators': {'offspring': 8}, 'diversity': {'embedder': 'hash'}})\n"
        "result = fittest.run(config, 'out')\n"
        "print(operators.MINE, runs.MINE, len(result.survivors) > 0)\n"
    )
    done = subprocess.run(
        [installed / "python", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "operators runs True"


@pytest.mark.slow
def test_the_installed_wheel_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = [
        installed / "python",
        "-c",
        "import fittest.evo, fittest.runs; print(fittest.evo.__file__, fittest.runs.__file__)",
    ]
    found = subprocess.check_output(where, cwd=tmp_path, text=True)
    assert str(ROOT) not in found

    init = subprocess.check_output([installed / "fittest", "init"], cwd=tmp_path, text=True)
    (tmp_path / "run.toml").write_text(init)
    settings = [
        "run.generations=1", "pool.limit=12", "engine.kind=null", "reward.kind=null", "diversity.embedder=hash",
        "operators.offspring=8", "engine.sampling.n=2",
    ]  # fmt: skip
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(
        [installed / "fittest", "run", "run.toml", "--out", "out", *overrides],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "survivors.parquet").exists()
