"""The wheel holds everything a run needs, and works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; libraries are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("fittest-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "venv" / "bin"


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
