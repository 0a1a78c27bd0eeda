"""Ends vLLM's engine when the run that started it is killed; vLLM calls this in each of its processes, as a plugin.

vLLM's own engine process waits for ever for requests of a parent that is gone, and holds the GPU's memory meanwhile.
"""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "FITTEST_VLLM_PARENT"
"""The environment variable that names the process whose end ends the engine; without it nothing is done."""

LOOKS_EVERY_SECONDS = 1.0


def end_with_parent() -> None:
    """Watch the parent from a thread, in the engine process that a run of fittest has started."""
    parent = os.getppid()
    if os.environ.get(PARENT) == str(parent):
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="fittest-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
