"""Shows that two commits make the same tables: runs both on the null engine and compares every file byte by byte.

Where a table has gained columns, those of BASE are compared, and the new ones are named.

    python tools/same_tables.py BASE [HEAD]

Each commit is checked out into a temporary folder and runs there, in this Python's environment. Besides whole runs,
one run is begun under BASE and resumed under HEAD. Exits with status 1 when a file differs or is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[1]

TABLES = ("generations/*.parquet", "survivors.parquet", "logbook.parquet", "pairs.jsonl", "thresholds.json")

COMMON = {
    "run.seed": 3, "run.generations": 3, "run.population": 12, "pool.path": '"builtin:starter"', "pool.limit": 40,
    "engine.kind": '"null"', "engine.slots": 8, "engine.sampling.n": 6, "engine.sampling.max_tokens": 60,
    "reward.kind": '"null"', "selection.quantile": 0.3, "selection.race_audit": 0,
    "operators.offspring": 24, "operators.shots": 4, "diversity.embedder": '"hash"', "diversity.device": '"cpu"',
}  # fmt: skip

OFF = {"selection.confirm": 0, "selection.retest": 0}
"""What would change tables is turned off where a commit knows of it; one that does not has no such keys."""

RUNS: dict[str, dict[str, object]] = {
    "generational, raced": {},
    "not raced": {"selection.race_round": 0},
    "raced one by one, with a pilot": {"selection.race_round": 1, "selection.pilot": 0.5},
    "raced with confidence": {"selection.race_confidence": 0.9},
    "other pairing and unit": {"selection.pairing": '"best-bottom:0.5"', "selection.length_unit": '"words"'},
    "two metrics, a percentile range, a bound": {
        "selection.metrics": '["m1", "m2"]', "selection.percentiles": "{ m1 = [40, 95] }",
        "selection.at_most": "{ chosen_length = 400 }",
    },
    "policy per-generation": {"selection.policy": '"per-generation"'},
    "policy annealed": {"selection.policy": '"annealed"', "selection.final_quantile": 0.5},
    "policy absolute": {
        "selection.policy": '"absolute"', "selection.quantile": 0.5, "selection.min_reward": 0.1,
        "selection.max_gap": 0.9,
    },
    "policy pareto": {"selection.policy": '"pareto"'},
    "arm best-of-n": {"run.arm": '"best-of-n"'},
    "arm random-few-shot": {"run.arm": '"random-few-shot"'},
    "a few survivors are enough": {"budget.target_survivors": 12},
}  # fmt: skip

CAPPED = {"budget.max_requests": 150}
UNCAPPED = {"budget.max_requests": 0}
STEADY = {"run.mode": '"steady-state"'}


class Commit:
    """A commit, checked out, whose command line can be called."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._tree = folder / name.replace("/", "_")
        self._out = folder / f"{self._tree.name}-out"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self._tree)], check=True)
        subprocess.run(["git", "-C", str(self._tree), "checkout", "--quiet", name], check=True)
        # before the packages had one name in common, they stood beside each other
        self._module = "fittest.runs.cli" if (self._tree / "fittest").is_dir() else "runs.cli"

    def run(self, name: str, settings: dict[str, object], *, out: Path | None = None) -> Path:
        """Runs an evolution, or goes on with the one in `out`, and returns its folder."""
        folder = out or self._out / name.replace(" ", "-").replace(",", "")
        config = self._tree / "same.toml"
        keys = (self._tree / "runs/config/selection.py").read_text()
        off = {key: value for key, value in OFF.items() if f"{key.rpartition('.')[2]}:" in keys}
        config.write_text(_toml(COMMON | off | settings))
        command = [sys.executable, "-m", self._module, "run", str(config), "--out", str(folder), "--resume"]
        environment = os.environ | {"PYTHONPATH": str(self._tree)}
        done = subprocess.run(command, cwd=self._tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            sys.exit(f"{self.name}: {name}: {done.stderr}")
        return folder


def capped(folder: Path) -> Path:
    """Returns the folder of a run that its cap has stopped half-way, so that there is something left to resume."""
    reason = json.loads((folder / "summary.json").read_text())["stop_reason"]
    if reason != "max_requests":
        sys.exit(f"{folder.name}: ended with {reason}, so that nothing would be resumed")
    return folder


def _toml(settings: dict[str, object]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def compare(name: str, one: Path, other: Path) -> bool:
    """Prints whether the tables of two run folders are the same bytes, and returns it."""
    names = sorted({path.relative_to(run) for run in (one, other) for pattern in TABLES for path in run.glob(pattern)})
    differ = [str(path) for path in names if not same_table(one / path, other / path)]
    gained = sorted({column for path in names for column in new_columns(one / path, other / path)})
    good = bool(names) and not differ
    said = "identical" if good else f"DIFFER: {', '.join(differ) or 'none written'}"
    print(f"{name}: {len(names)} files {said}" + (f"; new columns: {', '.join(gained)}" if gained else ""))
    return good


def same_table(one: Path, other: Path) -> bool:
    """Tells whether two files are the same bytes, or the same but for columns that only the other one has."""
    if not (one.is_file() and other.is_file()):
        return False
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix != ".parquet" or not new_columns(one, other):
        return False
    before = pl.read_parquet(one)
    return before.equals(pl.read_parquet(other, columns=before.columns))


def new_columns(one: Path, other: Path) -> list[str]:
    """Returns the columns of the other table that the first one lacks, if it has all of the first."""
    if one.suffix != ".parquet" or not (one.is_file() and other.is_file()):
        return []
    before, after = pl.read_parquet_schema(one), pl.read_parquet_schema(other)
    return [name for name in after if name not in before] if set(before) <= set(after) else []


def main(base: str, head: str = "HEAD") -> int:
    """Runs everything under both commits, and returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        # by hash, since HEAD of a clone need not be this one
        hashes = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", base, head], text=True).split()
        before, after = (Commit(commit, Path(folder)) for commit in hashes)
        same = [compare(name, before.run(name, it), after.run(name, it)) for name, it in RUNS.items()]

        # a steady-state run takes its events in the order in which they happen, and repeats that of a journal
        recorded = before.run("recorded", STEADY)
        again = STEADY | {"engine.kind": '"replay"', "engine.path": f'"{recorded}/journal.sqlite"'}
        replays = [commit.run("steady state", again) for commit in (before, after)]
        same += [compare("steady state", *replays), compare("steady state, as recorded", recorded, replays[1])]

        whole = before.run("whole", {})
        for name, first in (("resumed", after), ("begun before, resumed after", before)):
            begun = capped(first.run(name, CAPPED))
            same.append(compare(name, whole, after.run(name, UNCAPPED, out=begun)))
        begun = capped(before.run("steady begun", STEADY | CAPPED))
        after.run("steady resumed", STEADY | UNCAPPED, out=begun)
        again = STEADY | {"engine.kind": '"replay"', "engine.path": f'"{begun}/journal.sqlite"'}
        same.append(compare("steady state, begun before, resumed after", begun, after.run("steady replayed", again)))
    print("all identical" if all(same) else "NOT identical")
    return int(not all(same))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
