"""Sets up the process for a run: few garbage collections, and one thread for linear algebra."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from threadpoolctl import threadpool_limits

# a run keeps more and more objects, and hardly any of them is ever garbage; with its default thresholds Python
# examines all that a run keeps after every 700 new objects or so
_RARELY = (50_000, 20, 20)


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Collects garbage rarely inside the block, which saves a tenth of the client's CPU time.

    Objects that exist when the block begins are not examined at all; the former settings return at its end.
    """
    before = gc.get_threshold()
    # what is garbage already must go before the freeze, or it would stay until the end of the run
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _at_work() -> Iterator[None]:
    # the threads of numpy's BLAS spin on the cores that the engine, or torch, has better use for
    with threadpool_limits(limits=1, user_api="blas"), _collecting_rarely():
        yield


class _Shared:
    """Enters a context with its first user and leaves it with its last.

    Runs of one process may overlap, in an event loop or in threads. If each entered a context of its own, the one that
    ends last would bring back the settings that it has found, which are those of the other.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._users = 0
        self._left = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._left.enter_context(self._make())
            self._users += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._left.close()


at_work = _Shared(_at_work)
"""Is entered for as long as a run is at work."""
