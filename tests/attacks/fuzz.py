"""Feeds millions of inputs to everything that reads what others wrote; what is raised but FittestError is a crash.

`python tests/attacks/fuzz.py` runs each target in processes of its own, first under atheris, which looks for inputs
that reach new code, then with plain mutations of what that has found, which are quicker. Without atheris there are
only mutations. It prints inputs, seconds and crashes of each target, saves what crashed, and exits with 1 if anything
did.
"""

from __future__ import annotations

import argparse
import functools
import json
import mmap
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

_SLOW_SECONDS = 10.0
"""An input that takes longer is a crash as well: whoever sends it could hold up a run."""

_STALLED_SECONDS = 30.0
"""A process in which no input has ended for so long is killed."""

_LONGEST_WAIT = 5.0
"""How much longer a stage may take than the processor time that it is given."""

_LOOKS_AT_CLOCK = 0.05
_SHARE_OF_ATHERIS = 0.35
_MOST_RESTARTS = 4
_HEAD = 16
_LARGEST = 1 << 20


@dataclass
class Outcome:
    """What came of a stage of a target: its inputs, its seconds of processor time, and what crashed."""

    inputs: int = 0
    seconds: float = 0.0
    crashes: dict[str, str] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.crashes = {**other.crashes, **self.crashes}


class BlackBox:
    """A file in which a process writes each input before it is used, so that it is known when the process dies."""

    def __init__(self, path: Path) -> None:
        path.touch()
        os.truncate(path, _HEAD + _LARGEST)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _HEAD + _LARGEST)

    def write(self, number: int, data: bytes) -> None:
        size = len(data)
        self._memory[:_HEAD] = number.to_bytes(8, "little") + size.to_bytes(8, "little")
        self._memory[_HEAD : _HEAD + size] = data

    @property
    def number(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def data(self) -> bytes:
        return self._memory[_HEAD : _HEAD + int.from_bytes(self._memory[8:_HEAD], "little")]


class Trial:
    """Hands inputs to a target until the time is over; crashes are noted once for each place that raises."""

    def __init__(
        self, feed: Callable[[bytes], None], box: BlackBox, report: Path, *, seconds: float, most: int
    ) -> None:
        from fittest.evo.errors import FittestError

        self._feed, self._box, self._report, self._most = feed, box, report, most
        self._passed = FittestError
        self._outcome = Outcome()
        self._places: set[str] = set()
        self._count = 0
        self._began = self._looked = time.perf_counter()
        self._seconds = seconds
        self._cpu_began = time.process_time()

    def take(self, data: bytes) -> None:
        self._box.write(self._count, data)
        began = time.perf_counter()
        try:
            self._feed(data)
        except self._passed:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # polars panics with what is no Exception
            self._note(data, *place_of(error))
        ended = time.perf_counter()
        if ended - began > _SLOW_SECONDS:
            self._note(data, "slow", f"{ended - began:.0f} s")
        self._count += 1
        if ended - self._looked > _LOOKS_AT_CLOCK or self._count >= self._most:
            self._looked = ended
            self._finish_if_over(ended)

    def _note(self, data: bytes, place: str, said: str) -> None:
        if place not in self._places:
            self._places.add(place)
            self._outcome.crashes[f"{place}: {said}"] = data.hex()

    def _finish_if_over(self, ended: float) -> None:
        # the processor's time, so that a busy machine takes longer and does no less; but some targets wait for others
        spent, waited = time.process_time() - self._cpu_began, ended - self._began
        if self._count < self._most and spent < self._seconds and waited < _LONGEST_WAIT * self._seconds:
            return
        self._outcome.inputs, self._outcome.seconds = self._count, spent
        self._report.write_text(json.dumps(asdict(self._outcome)))
        os._exit(0)  # libFuzzer, which calls this under atheris, knows no other way out


def place_of(error: BaseException) -> tuple[str, str]:
    """Returns the type of an error with the last line of ours that raised it, and what it says."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
    place = next((f for f in reversed(ours) if f"{os.sep}tests{os.sep}" not in f.filename), ours[-1] if ours else None)
    where = "" if place is None else f" at {Path(place.filename).relative_to(ROOT)}:{place.lineno}"
    return f"{type(error).__name__}{where}", f"{str(error).partition(chr(10))[0]:.120}"


def stage(name: str, engine: str, folder: Path, *, seconds: float, most: int, seed: int) -> NoReturn:
    """Runs one stage of a target in this process; it ends with the time or with the number of inputs."""
    # the plug-ins that are installed do not change meanwhile, and to look for them takes longer than all the rest
    metadata.entry_points = functools.cache(metadata.entry_points)
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["fittest"]):
            from tests.attacks.fuzz_targets import SELF_TESTS, TARGETS

            target = (TARGETS | SELF_TESTS)[name]
            feed = target.begin(_made(folder / "files"))
            feed_once(feed, target.seeds[0])  # what it imports late is instrumented as well
    else:
        from tests.attacks.fuzz_targets import SELF_TESTS, TARGETS

        target = (TARGETS | SELF_TESTS)[name]
        feed = target.begin(_made(folder / "files"))
    trial = Trial(feed, BlackBox(folder / "box"), folder / "report.json", seconds=seconds, most=most)
    corpus = folder.parent / "corpus"
    if engine == "atheris":
        for number, data in enumerate(target.seeds):
            (_made(corpus) / f"seed{number}").write_bytes(data)
        words = folder / "words"
        words.write_text("".join(_quoted(word) for word in target.words or (b"[",)))
        atheris.Setup(
            [
                sys.argv[0],
                f"-seed={seed}",
                "-max_len=4096",
                "-rss_limit_mb=0",
                "-timeout=600",
                f"-dict={words}",
                str(corpus),
            ],
            trial.take,
        )
        atheris.Fuzz()
    from tests.attacks.fuzz_input import Mutator

    found = [file.read_bytes() for file in sorted(corpus.iterdir())[:2000]] if corpus.is_dir() else []
    mutator = Mutator([*target.seeds, *found], target.words, seed=seed)
    while True:
        trial.take(mutator.one())


def _quoted(word: bytes) -> str:
    """Returns a line of libFuzzer's dictionaries."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


def feed_once(feed: Callable[[bytes], None], data: bytes) -> None:
    """Feeds one input whose outcome does not matter."""
    from fittest.evo.errors import FittestError

    with suppress(FittestError):
        feed(data)


def watched(name: str, engine: str, folder: Path, *, seconds: float, most: int, seed: int) -> Outcome:
    """Runs one stage in a process of its own, and once more if it dies; the input that it died of is a crash."""
    total = Outcome()
    for attempt in range(_MOST_RESTARTS):
        here = _made(folder / f"{engine}{attempt}")
        left = seconds - total.seconds
        command = [
            sys.executable, str(Path(__file__)), "--stage", engine, "--target", name, "--folder", str(here),
            "--seconds", str(left), "--inputs", str(most - total.inputs), "--seed", str(seed + attempt),
        ]  # fmt: skip
        box = BlackBox(here / "box")
        with (here / "said").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "RUST_BACKTRACE": "0"})
            began, stalled = time.monotonic(), _wait(process, box)
        if (here / "report.json").is_file():
            total.add(Outcome(**json.loads((here / "report.json").read_text())))
            return total
        words = (here / "said").read_text(errors="replace").strip().splitlines()
        why = "hangs" if stalled else f"ends the process with {process.returncode} ({' | '.join(words[-3:])[-300:]})"
        total.add(Outcome(box.number, min(left, time.monotonic() - began), {why: box.data.hex()}))
        if total.seconds >= seconds or not box.number:
            break
    return total


def _wait(process: subprocess.Popen[bytes], box: BlackBox) -> bool:
    """Waits for a process to end; one in which nothing ends any more is killed, which is then True."""
    number, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        if box.number != number:
            number, since = box.number, time.monotonic()
        elif time.monotonic() - since > _STALLED_SECONDS + (60 if number == 0 else 0):
            process.kill()
            process.wait()
            return True
    return False


def fuzzed(name: str, folder: Path, *, seconds: float, most: int, seed: int, atheris: bool) -> dict[str, Outcome]:
    """Runs all stages of a target."""
    found = {}
    if atheris:
        share = seconds * _SHARE_OF_ATHERIS
        found["atheris"] = watched(name, "atheris", folder, seconds=share, most=most // 2 or 1, seed=seed)
        seconds -= found["atheris"].seconds
        most -= found["atheris"].inputs
    found["mutations"] = watched(name, "mutations", folder, seconds=max(0.0, seconds), most=most, seed=seed)
    return found


def saved(name: str, crashes: dict[str, str], into: Path) -> Iterator[str]:
    """Saves the inputs that crashed, and yields a line for each."""
    for number, (what, data) in enumerate(crashes.items()):
        file = _made(into) / f"{name.replace(' ', '-')}-{number}.bin"
        file.write_bytes(bytes.fromhex(data))
        yield f"    {what}: {file}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes the targets, and returns the exit status."""
    options = _options().parse_args(arguments)
    if options.stage:
        stage(
            options.target[0],
            options.stage,
            options.folder,
            seconds=options.seconds,
            most=options.inputs,
            seed=options.seed,
        )
    from tests.attacks.fuzz_targets import SELF_TESTS, TARGETS

    known = TARGETS | SELF_TESTS
    names = options.target or list(TARGETS)
    atheris = find_spec("atheris") is not None and not options.without_atheris
    print(
        "atheris, then mutations" if atheris else f"mutations alone: there is no atheris for {sys.version.split()[0]}"
    )
    shares = sum(known[name].share for name in names)
    began, crashed, total = time.monotonic(), 0, 0
    with TemporaryDirectory(dir=_fast_folder()) as folder, ThreadPoolExecutor(options.processes) as pool:
        each: dict[str, Any] = {
            name: pool.submit(
                fuzzed, name, _made(Path(folder) / name.replace(" ", "-")), most=options.inputs, seed=options.seed,
                seconds=options.seconds * options.processes * known[name].share / shares, atheris=atheris,
            )
            for name in names
        }  # fmt: skip
        for name, outcome in each.items():
            stages = outcome.result()
            crashes = {what: data for one in stages.values() for what, data in one.crashes.items()}
            counts = ", ".join(f"{one.inputs:>9,} in {one.seconds:5.1f} s ({way})" for way, one in stages.items())
            print(
                f"{name:17} {counts}; crashes: {len(crashes)}",
                *saved(name, crashes, options.save),
                sep="\n",
                flush=True,
            )
            crashed += len(crashes)
            total += sum(one.inputs for one in stages.values())
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s, {crashed} crashes")
    return int(crashed > 0)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="processor time of each of the processes")
    parser.add_argument("--inputs", type=int, default=10**9, help="the most inputs of one target")
    parser.add_argument("--target", action="append", help="a target, instead of all; may be repeated")
    parser.add_argument("--processes", type=int, default=2, help="targets at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path("fuzz-found"), help="the folder for inputs that crash")
    parser.add_argument("--without-atheris", action="store_true", help="mutations alone")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fast_folder() -> str | None:
    """Returns a folder in memory, if there is one: a reader's file is written anew for every input."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
