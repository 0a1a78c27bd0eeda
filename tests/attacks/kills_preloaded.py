"""What a victim needs is imported here, once, in the process that forks the victims; nothing may start a thread."""

from __future__ import annotations

import gc
import importlib
import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

for module in (
    "torch",
    "sklearn.feature_extraction.text",
    "fittest.runs.session",
    "fittest.runs.cli.judge.annotate",
    "fittest.evo.steady_state",
    "tests.attacks.kill_scenes",
):
    importlib.import_module(module)

# a run looks for garbage once when it begins, which takes a while among all that is imported
gc.collect()
gc.freeze()
