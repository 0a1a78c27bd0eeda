"""Everything that reads what others wrote says at most FittestError, whatever it reads; and what once said more."""

from __future__ import annotations

import functools
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.runs.config import kinds
from tests.attacks.confined import confined
from tests.attacks.fuzz import ROOT
from tests.attacks.fuzz_input import Mutator
from tests.attacks.fuzz_targets import TARGETS, Feed

EXAMPLES = 200
SLOW = {
    "configuration": 100, "prices": 100, "toml": 150, "journal bytes": 30, "exported files": 40, "card": 100,
    "pool parquet": 60, "responses parquet": 60, "pairs parquet": 60,
}  # fmt: skip
"""Targets of which an input takes milliseconds."""

FOUND: list[tuple[str, bytes]] = [
    ("reply", b'{"choices": [{"text": "x", "finish_reason": "\\ud800"}]}'),
    ("folder", b"[1]"),
    ("folder", b"null"),
    ("folder", b"1.5"),
    ("folder", b"{}"),
    ("folder", b'{"stop_reason": ["generations"]}'),
    ("folder", b"[" * 100_000),
]
"""Inputs that once crashed, by target."""


@pytest.fixture(autouse=True)
def _plug_ins_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "entry_points", functools.cache(metadata.entry_points))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_an_error_of_ours_is_raised(name: str, folder: Path) -> None:
    target = TARGETS[name]
    feed = target.begin(folder)
    inputs = st.one_of(
        st.binary(max_size=200),
        st.builds(lambda seed: Mutator(target.seeds, target.words, seed=seed).one(), st.integers(0, 2**32)),
    )

    @settings(
        max_examples=SLOW.get(name, EXAMPLES), derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(inputs)
    def fed(data: bytes) -> None:
        take(feed, data)

    fed()


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_once_crashed_does_not(name: str, data: bytes, folder: Path) -> None:
    take(TARGETS[name].begin(folder), data)


def take(feed: Feed, data: bytes) -> None:
    with suppress(FittestError):
        feed(data)


@pytest.mark.slow
def test_the_fuzzer_counts_what_it_fed_and_names_what_crashed(tmp_path: Path) -> None:
    fuzz = [sys.executable, str(ROOT / "tests" / "attacks" / "fuzz.py"), "--inputs", "500", "--seconds", "60"]
    sound = confined([*fuzz, "--target", "verdict", "--without-atheris"], seconds=120, cwd=tmp_path)
    assert sound.status == 0, sound.stderr
    assert "500 in" in sound.stdout
    assert "crashes: 0" in sound.stdout
    for broken, said in (("raises", "ValueError at"), ("dies", "ends the process with -6"), ("is slow", "slow: ")):
        ended = confined(
            [*fuzz, "--target", broken, "--without-atheris", "--save", str(tmp_path)],
            seconds=120, cwd=tmp_path,
        )  # fmt: skip
        assert ended.status == 1, ended.stdout
        assert said in ended.stdout
        assert list(tmp_path.glob(f"{broken.replace(' ', '-')}-0.bin"))
