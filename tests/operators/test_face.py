"""The face of operators: every name on it is there, and none costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fittest import operators


@pytest.mark.parametrize("name", operators.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(operators)
    assert getattr(operators, name).__name__ == name


def test_the_face_alone_imports_nothing_heavy() -> None:
    program = (
        "import sys, fittest.operators;"
        " print(sorted({'deap', 'numpy', 'scipy', 'sklearn', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
