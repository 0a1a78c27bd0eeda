"""Garbage collection while a run keeps more and more objects, hardly any of which are ever garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = (50_000, 20, 20)
"""Thresholds of Python's collector; by default it looks at all that a run keeps after every 700 new objects or so."""


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Look for cycles seldom, and not at all in what is there already; a tenth of the client's CPU time goes there."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
