"""The face of fitness: every name on it is there, and none costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fittest import fitness


@pytest.mark.parametrize("name", fitness.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(fitness)
    assert getattr(fitness, name).__name__ == name


def test_the_face_alone_imports_nothing_heavy() -> None:
    program = (
        "import sys, fittest.fitness;"
        " print(sorted({'deap', 'numpy', 'scipy', 'sklearn', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
