"""tools/house.py finds what it is there to find: a circle, an arrow back up, and that it has found nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.house import main


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package of its own name with files as given by the test, importable."""
    name = f"planted_{request.param_index}"
    for path, text in request.param.items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text.replace("PACKAGE", name))
    monkeypatch.syspath_prepend(tmp_path)
    return name


CIRCLE = {
    "a.py": "from PACKAGE import b",
    "b.py": "def late():\n    from PACKAGE.a import x",
}
CIRCLE_OF_FOLDERS = {
    "top/one.py": "from PACKAGE.ground import two\nfrom PACKAGE.ground import three",
    "top/four.py": "",
    "ground/two.py": "",
    "ground/three.py": "from PACKAGE.top import four",
}
SOUND = {"top.py": "import PACKAGE.ground", "ground.py": "import sys"}
EMPTY = {"alone.py": "import sys"}


@pytest.mark.parametrize(
    ("plant", "status", "said"),
    [
        (CIRCLE, 1, ["circle: a, b", "1 circles among files, 1 arrows back up"]),
        (CIRCLE_OF_FOLDERS, 1, ["ground → top", "0 circles among files, 1 arrows back up"]),
        (EMPTY, 1, ["0 arrows among them"]),
        (SOUND, 0, ["1 arrows among them", "0 circles among files, 0 arrows back up"]),
    ],
    indirect=["plant"],
)
def test_a_planted_fault_is_found(
    plant: str, status: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(plant) == status
    printed = capsys.readouterr().out
    assert all(line in printed for line in said), printed


def test_the_house_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().out
