"""Ends vLLM's engine when the run that started it is killed; vLLM calls this in each of its processes, as a plugin.

Without it, vLLM's engine process would wait for ever for requests of a parent that is gone, and hold the GPU's memory.
"""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "FITTEST_VLLM_PARENT"
"""This environment variable names the process whose end ends the engine; without it the plugin does nothing."""

_LOOKS_EVERY_SECONDS = 1.0


def end_with_parent() -> None:
    """Watches the parent from a thread, in the engine process that a run of fittest has started."""
    # vLLM calls plugins in processes that are not ours too; only the direct child of the named process is watched
    parent = os.getppid()
    if os.environ.get(PARENT) == str(parent):
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="fittest-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # an orphan gets another parent
        time.sleep(_LOOKS_EVERY_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
