"""Sends a number of requests through feeder, `openai` engine and journal and nothing else; `footprint.py` measures it.

    python benchmarks/feeding_alone.py http://127.0.0.1:8000/v1 2000

The program prints, as JSON, its peak memory in MiB and the heavy libraries that it imported.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path

from fittest.evo.backends.openai import OpenAI
from fittest.evo.feeder import Feeder
from fittest.evo.records import Message, Request, Sampling
from fittest.runs.output.journal import SqliteJournal

HEAVY = {"torch", "sklearn", "scipy", "transformers", "polars", "pydantic", "deap", "plotly"}


async def feed(url: str, count: int) -> None:
    """Ask for all requests at once; the feeder keeps 64 in flight."""
    requests = [Request("rollout", Sampling(), n, n, (Message("user", f"Tell me of {n}."),)) for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.sqlite")
        async with Feeder(OpenAI(base_url=[url], model="simulated", slots=64), journal) as feeder:
            await feeder.ask_all(requests)
        journal.close()


asyncio.run(feed(sys.argv[1], int(sys.argv[2])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mib": peak, "heavy": sorted(HEAVY & set(sys.modules))}))
