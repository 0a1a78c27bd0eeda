"""What all tests share: real data where it is, real models where they are, and a configuration that costs nothing."""

from __future__ import annotations

import sqlite3
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from fittest.evo.backends import endpoint, servers
from fittest.runs.config import Config, parse_config
from fittest.runs.models import pull
from fittest.runs.output.journal import SqliteJournal

if TYPE_CHECKING:
    from tests.http_engine import HttpEngine

# a machine that is busy with something else sets the pace, and that is no failure
hypothesis.settings.register_profile("fittest", deadline=None)
hypothesis.settings.load_profile("fittest")

if sys.version_info < (3, 13):

    class _Connection(sqlite3.Connection):
        """Warns of a connection that nobody has closed, as sqlite3 does by itself from Python 3.13 on."""

        _is_open = False

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._is_open = True

        def close(self) -> None:
            super().close()
            self._is_open = False

        def __del__(self) -> None:
            if self._is_open:
                warnings.warn(f"unclosed database in {self!r}", ResourceWarning, source=self, stacklevel=1)

    # before any module of ours is asked to connect
    sqlite3.connect = partial(sqlite3.connect, factory=_Connection)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _journals_in_memory_are_closed() -> Iterator[None]:
    """A test need not close a journal that only it can see; one with a file is closed by whoever opened it."""
    connected = SqliteJournal._connected
    with ExitStack() as left:

        def noted(journal: SqliteJournal) -> sqlite3.Connection:
            database = connected(journal)
            if journal.path == ":memory:":
                left.callback(database.close)
            return database

        SqliteJournal._connected = noted  # type: ignore[method-assign]
        try:
            yield
        finally:
            SqliteJournal._connected = connected  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project; tests that need it are skipped elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real embedding model, fetched once into the user's cache."""
    return pull("minilm")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real language model, fetched once into the user's cache."""
    return pull("smollm2-135m")


def null_tables(**sections: dict[str, Any]) -> dict[str, Any]:
    """Tables of a small configuration without any model; sections are merged into it."""
    tables: dict[str, Any] = {
        "run": {"seed": 3, "generations": 2, "population": 12},
        "pool": {"path": "builtin:starter", "limit": 40},
        "engine": {"kind": "null", "slots": 8, "sampling": {"n": 4, "max_tokens": 60}},
        "reward": {"kind": "null"},
        "selection": {"quantile": 0.3},
        "operators": {"offspring": 24, "shots": 4},
        "diversity": {"embedder": "hash", "device": "cpu"},
    }
    for name, section in sections.items():
        tables[name] = {**tables.get(name, {}), **section}
    return tables


@pytest.fixture
def server() -> Iterator[HttpEngine]:
    """A real HTTP server that answers as the null engine does, until it is told otherwise."""
    from tests.http_engine import HttpEngine

    with HttpEngine() as engine:
        yield engine


@pytest.fixture
def other() -> Iterator[HttpEngine]:
    """A second one."""
    from tests.http_engine import HttpEngine

    with HttpEngine() as engine:
        yield engine


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that wait hardly at all."""
    for module in (endpoint, servers):
        monkeypatch.setattr(module, "pause", lambda times, longest=0.0: 0.01)


@pytest.fixture
def null_config() -> Config:
    """A small run on the null engine: about 400 rollouts, well under a second."""
    return parse_config(null_tables())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A tiny model gains nothing from a second thread, and on a busy machine waits for it at every layer."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
