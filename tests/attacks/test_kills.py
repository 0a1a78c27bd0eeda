"""Killed at any moment, a command leaves whole files: the old or the new, never a mix, and the next completes them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fittest.evo.errors import FittestError
from tests.attacks.kill_scenes import SCENES, TINY
from tests.attacks.kills import attacked, full_disks, leftovers, results_of

VARIANTS = ("first filter", "export of responses")


def assert_all_whole(name: str, place: Path, kills: int) -> None:
    outcomes = list(attacked(SCENES[name], place, kills))
    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert len(outcomes) == kills
    assert [outcome for outcome in outcomes if not outcome.killed and not outcome.over] == []
    # those by the clock may come too late, as may some that were meant to come before one of the last writes
    assert sum(outcome.killed for outcome in outcomes) >= kills // 2


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from tests.tiny_model import make_tiny_model

    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"), context=512)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TINY, str(folder))
        yield folder


@pytest.mark.parametrize("name", ["run", "steady-state run", "filter", "export", "judge pairs", "judge annotate"])
def test_a_few_kills(name: str, tmp_path: Path) -> None:
    assert_all_whole(name, tmp_path, 5)


def assert_said_when_full(name: str, place: Path, times: int) -> None:
    outcomes = list(full_disks(SCENES[name], place, times))
    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert any(outcome.killed for outcome in outcomes)


@pytest.mark.parametrize("name", ["run", "export"])
def test_a_disk_that_is_full_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    assert_said_when_full(name, tmp_path, 2)


@pytest.mark.attack
@pytest.mark.parametrize("name", list(SCENES))
def test_a_disk_is_full_from_any_moment_on(name: str, tiny: Path, tmp_path: Path) -> None:
    assert_said_when_full(name, tmp_path, 6)


@pytest.mark.attack
@pytest.mark.parametrize("name", [name for name in SCENES if name not in ("judge train", *VARIANTS)])
def test_a_hundred_kills(name: str, tmp_path: Path) -> None:
    assert_all_whole(name, tmp_path, 100)


@pytest.mark.attack
@pytest.mark.parametrize("name", VARIANTS)
def test_kills_of_what_is_written_for_the_first_time_or_in_another_form(name: str, tmp_path: Path) -> None:
    assert_all_whole(name, tmp_path, 30)


@pytest.mark.attack
def test_kills_of_a_training_before_each_of_its_writes(tiny: Path, tmp_path: Path) -> None:
    # it has 39 writes, and four fifths of the kills come before one of them
    assert_all_whole("judge train", tmp_path, 60)


@pytest.mark.training
def test_weights_that_do_not_fit_the_disk_are_one_line_and_the_old_ones_stay(tiny: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; the weights are not written by Python."""
    scene = SCENES["judge train"]
    scene.prepare(tmp_path)
    old = results_of(scene, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
        with pytest.raises(FittestError, match=r"cannot write .*trained.*"):
            scene.work(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert results_of(scene, tmp_path) == old
    assert leftovers(tmp_path) == []
