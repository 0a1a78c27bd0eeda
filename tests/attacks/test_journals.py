"""Whatever is damaged in a run's folder: its tables are the same in the end, or the user was told what was lost.

The engine of the sessions that go on is a liar: what an earlier session was answered already, it answers otherwise. So
a reply that is asked for again in silence gives another table, as it would with a server that is paid and not seeded.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fittest.evo.backends.null import Null
from fittest.evo.errors import FittestError, NoSurvivorWarning
from fittest.evo.evolution import Evolution
from fittest.evo.keys import request_key
from fittest.evo.records import Completion, Request
from fittest.runs.config import Config, parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.session import run
from tests.attacks import surgeon
from tests.conftest import null_tables

MODES = ("generational", "steady-state")
TABLES = ("survivors.parquet", "pairs.jsonl", "logbook.parquet", "thresholds.json")

TELLS = re.compile(
    r"damaged|lost|gone|is not there|corrupted|knows nothing|made anew|otherwise|cannot be|later fittest"
)
"""A user who reads one of these words knows that something was lost, and of what."""


def config(mode: str) -> Config:
    return parse_config(
        null_tables(
            run={"mode": mode, "generations": 2, "seed": 5},
            pool={"limit": 16},
            engine={"slots": 4, "sampling": {"n": 3, "max_tokens": 200}},
            operators={"offspring": 10},
        )
    )


@dataclass
class Told:
    """Keeps what a run says."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    async def watch(self, evolution: Evolution) -> None:
        return

    def close(self, evolution: Evolution) -> None:
        return


def tables_of(folder: Path) -> dict[str, bytes]:
    sealed = [file for name in ("generations", "responses") for file in sorted((folder / name).glob("[0-9]*.parquet"))]
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in [*(folder / name for name in TABLES), *sealed]
    }


@dataclass
class Patient:
    """A run that can go on.

    Attributes:
        folder: where it lies, never to be touched.
        config: its configuration.
        answered: the requests whose replies it has.
        expected: the tables with which it ends if nothing is damaged.
    """

    folder: Path
    config: Config
    answered: frozenset[tuple[str, int]]
    expected: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Patient]]:
    """For each mode a finished run whose summary is gone, so that all of it is played again, and one cut short."""
    patch = pytest.MonkeyPatch()
    found: dict[str, Patient] = {}
    for mode in MODES:
        place = tmp_path_factory.mktemp(mode)
        _operate(patch, place, config(mode))
        for state in ("finished", "halted"):
            folder = place / state
            answered = _answered(folder, place / "looked at")
            patient = Patient(folder, config(mode), answered)
            again = place / f"{state} again"
            shutil.copytree(folder, again)
            with lying(patient):
                _resumed(patient, again)
            patient.expected = tables_of(again)
            found[f"{mode}, {state}"] = patient
    yield found
    patch.undo()


def _operate(patch: pytest.MonkeyPatch, place: Path, settings: Config) -> None:
    """Runs, and keeps a copy of the folder as a kill in the third generation would leave it."""
    (place / "finished").mkdir()
    # small pages, so that a small run has rows that go on in others, and trees of several floors
    database = sqlite3.connect(place / "finished" / "journal.sqlite")
    database.execute("PRAGMA page_size = 512")
    database.execute("VACUUM")
    database.close()
    exchange = SqliteJournal.exchange
    exchanges = [0]

    def keeping(journal: SqliteJournal, replies: Any, requests: Any) -> None:
        exchange(journal, replies, requests)
        sealed = len(list((place / "finished" / "generations").glob("*.parquet")))
        exchanges[0] += sealed == 2
        if exchanges[0] == 6 and not (place / "halted").exists():
            shutil.copytree(place / "finished", place / "halted")

    with patch.context() as patched:
        patched.setattr(SqliteJournal, "exchange", keeping)
        patched.setattr(sqlite3, "connect", _with_small_log(sqlite3.connect))
        run(settings, place / "finished", resume=True)
    (place / "finished" / "summary.json").unlink()


def _with_small_log(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def connected(*args: Any, **more: Any) -> sqlite3.Connection:
        database = connect(*args, **more)
        # some pages of the run that is cut short are in the file, and some in its log alone
        database.execute("PRAGMA wal_autocheckpoint = 150")
        return database

    return connected


def _answered(folder: Path, copy: Path) -> frozenset[tuple[str, int]]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    database = sqlite3.connect(copy / "journal.sqlite")
    found = frozenset(database.execute("SELECT key, sample FROM replies").fetchall())
    database.close()
    return found


class lying:  # noqa: N801 - it reads as a word in `with lying(patient)`
    """Lets the engine answer otherwise what the patient was answered already; `again` counts how often it was."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._patch = pytest.MonkeyPatch()
        self.again = 0

    def __enter__(self) -> lying:
        sample = Null.sample

        async def lie(engine: Null, request: Request) -> Completion:
            reply = await sample(engine, request)
            if (request_key(engine.fingerprint, request), request.sample) not in self._patient.answered:
                return reply
            self.again += 1
            return replace(reply, text=f"Otherwise. {reply.text}")

        self._patch.setattr(Null, "sample", lie)
        return self

    def __exit__(self, *exc: object) -> None:
        self._patch.undo()


def _resumed(patient: Patient, folder: Path) -> list[str]:
    """Goes on, follows what it is advised to do, and returns everything that the user was told."""
    told = Told()
    for _ in range(2):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoSurvivorWarning)
                result = run(patient.config, folder, resume=True, progress=told)
            return [*told.lines, *result.summary["warnings"]]
        except FittestError as error:
            told.lines.append(str(error))
            advice = re.search(r"To go on with them: (.*), and resume", str(error))
            if advice is None:
                break
            subprocess.run(advice[1], shell=True, check=True)
    return told.lines


def attack(patient: Patient, folder: Path, damage: Callable[[Path], None]) -> None:
    """Damages a copy of a run, goes on with it, and looks at what came of it."""
    shutil.copytree(patient.folder, folder)
    damage(folder)
    with lying(patient) as engine:
        told = _resumed(patient, folder)
    assert not [line for line in told if "\n" in line]
    was_told = any(TELLS.search(line) for line in told)
    ended = (folder / "summary.json").exists()
    same = ended and tables_of(folder) == patient.expected
    assert same or was_told, told
    assert not engine.again or was_told, told
    shutil.rmtree(folder)


def attacks(patient: str) -> list[str]:
    """The names of all attacks on a patient; a hand that opens the journal closes its log, which a halted run has."""
    return [*surgeon.FILES, *surgeon.TRANSPLANTS, *(surgeon.QUERIES if "finished" in patient else ())]


CASES = [(f"{mode}, {state}", name) for mode in MODES for state in ("finished", "halted")
         for name in attacks(state)]  # fmt: skip


def test_there_are_as_many_damaged_copies_as_the_documentation_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "security.md"
    assert f"| {len(CASES)} damaged copies" in page.read_text()


def damage_by(name: str, seed: int, others: dict[str, Patient]) -> Callable[[Path], None]:
    chance = random.Random(f"{name} {seed}")
    if name in surgeon.TRANSPLANTS:
        return lambda folder: surgeon.by_transplant(folder, name, chance.choice([*others.values()]).folder)
    if name in surgeon.QUERIES:
        return lambda folder: surgeon.by_query(folder, name, chance)
    return lambda folder: surgeon.FILES[name](folder, chance)


def _others(patient: str, patients: dict[str, Patient]) -> dict[str, Patient]:
    mode = patient.split(",")[0]
    return {name: other for name, other in patients.items() if not name.startswith(mode)}


@pytest.mark.parametrize("place", range(20))
def test_no_damage_gives_other_tables_in_silence(place: int, patients: dict[str, Patient], tmp_path: Path) -> None:
    """The fast form: every tenth case of the whole one or so, of both modes and both states."""
    patient, name = CASES[place * len(CASES) // 20]
    attack(patients[patient], tmp_path / "run#1 %41?", damage_by(name, 0, _others(patient, patients)))


@pytest.mark.attack
@pytest.mark.parametrize(("patient", "name"), CASES)
def test_no_damage_of_any_kind_gives_other_tables_in_silence(
    patient: str, name: str, patients: dict[str, Patient], tmp_path: Path
) -> None:
    attack(patients[patient], tmp_path / "run", damage_by(name, 1, _others(patient, patients)))


def test_a_run_that_is_not_damaged_asks_nothing_again_and_tells_nothing(
    patients: dict[str, Patient], tmp_path: Path
) -> None:
    for number, patient in enumerate(patients.values()):
        folder = tmp_path / f"run {number}"
        shutil.copytree(patient.folder, folder)
        with lying(patient) as engine:
            told = _resumed(patient, folder)
        assert engine.again == 0
        assert not [line for line in told if TELLS.search(line)]
        assert tables_of(folder) == patient.expected
