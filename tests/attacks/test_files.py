"""Odd files: every reader refuses them with one line, within limits of time and memory, and takes the good ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from fittest.evo.errors import FittestError
from fittest.runs.cli import main
from fittest.runs.reading.limits import MOST_MIB as VARIABLE
from fittest.runs.reading.limits import FileLimits, file_limits
from fittest.runs.reading.parquet import check_parquet
from fittest.runs.sources.pair_file import read_pairs
from fittest.runs.sources.pool import read_pool
from fittest.runs.sources.responses import Columns, read_responses
from tests.attacks.confined import MOST_MIB, confined, fittest
from tests.attacks.forge import ODD, ROWS, SOUND, damaged_parquet, honest

DOCS = Path(__file__).parents[2] / "docs"

BOMBS = [name for name in ODD if "bomb" in name or "50 M" in name or name.startswith("parquet, ") or "quote" in name]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets limits at which the bombs go off early: 32 MiB of text, 262,144 rows, cells of 1 MiB."""
    monkeypatch.setenv(VARIABLE, "32")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = ODD[kind](tmp_path)
    done = CliRunner().invoke(main, ["filter", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    assert line.startswith(f"fittest: {path}: ")
    assert len(line) < 600
    assert line.isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", SOUND)
def test_an_odd_file_that_is_good_is_read(kind: str, tmp_path: Path) -> None:
    table = read_responses(SOUND[kind](tmp_path), Columns())
    assert table.frame.height in (2, 24, 25, 48_000)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gzip bomb, one line", "line 1 is longer than 1 MiB, the limit of a line"),
        ("gzip bomb, many lines", "holds more than 32 MiB of text, the limit of a file"),
        ("gzip bomb, blank lines", "holds more than 32 MiB of text, the limit of a file"),
        ("line of 50 MiB", "line 1 is longer than 1 MiB, the limit of a line"),
        ("parquet, nothing but rows", "has 5,000,000 rows, and the limit of rows is 262,144"),
        ("parquet, one cell of 50 MiB", "has a cell of more than 1 MiB, the limit of a cell"),
        ("columns without end", "has more than 10,000 columns, the limit of columns"),
        ("csv column twice", "has two columns 'reward'; rename or drop one"),
        ("json key twice", "line 1 is not JSON (the key 'reward' is there twice)"),
        ("parquet columns that differ in case", "has the columns 'reward' and 'Reward', which differ in case alone"),
        ("fifo", "is a pipe; it should be a file"),
        ("endless device", "is a device; it should be a file"),
    ],
)
def test_a_limit_says_its_name(kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FittestError) as refused:
        read_responses(ODD[kind](tmp_path), Columns())
    assert words in str(refused.value)
    if "limit of a" in words:
        assert str(refused.value).endswith(f"the limit is raised by the environment variable {VARIABLE}, now 32")


def test_a_limit_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 200_000}) + "\n")
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(FittestError, match=r"line 1 is longer than 0\.03125 MiB"):
        read_pool(path)
    monkeypatch.setenv(VARIABLE, "64")
    assert len(read_pool(path).prompts[0].text) == 200_000


@pytest.mark.parametrize("given", ["0", "-1", "many", "1e3", "9" * 5000, "2097152"])
def test_a_limit_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(FittestError, match=f"^{VARIABLE} is .*; it should be a number of MiB from 1 to 1048576$"):
        file_limits()


def test_the_limits_are_those_of_the_documentation() -> None:
    limits, page = FileLimits(), (DOCS / "limits.md").read_text()
    for figure in (f"{limits.mib} MiB", f"{limits.rows:,}", limits.cell_mib, VARIABLE):
        assert figure in page


def test_there_are_as_many_odd_files_as_the_documentation_says() -> None:
    assert f"| {len(ODD)} kinds of odd files" in (DOCS / "security.md").read_text()


@pytest.mark.usefixtures("small")
def test_few_bytes_of_emoji_count_as_the_memory_that_they_take(tmp_path: Path) -> None:
    # one letter outside Latin makes a text of Python four times as large: 12 MiB in the file are 48 MiB in memory
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n} 🦉 {'a' * 4000}"}) + "\n" for n in range(3_000)))
    with pytest.raises(FittestError, match="holds more than 32 MiB of text, the limit of a file"):
        read_pool(path)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_twins_inside_a_turn_are_refused_as_well(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"pool.{form}"
    row = '{"messages": [{"role": "user", "role": "assistant", "content": "Hello there"}]}'
    path.write_text(f"[{row}]" if form == "json" else row)
    with pytest.raises(FittestError, match="the key 'role' is there twice"):
        read_pool(path)


def test_a_twin_of_a_column_that_nobody_reads_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_text("prompt,Note,note\nWhat is this?,a,b\n")
    assert read_pool(path).prompts[0].text == "What is this?"


def test_damaged_parquet_is_refused_or_read_and_never_ends_the_process(tmp_path: Path) -> None:
    outcomes = {_outcome(lambda seed=seed: _responses(damaged_parquet(tmp_path, seed))) for seed in range(150)}
    assert outcomes == {"read", "refused"}


def test_a_reader_that_dies_is_replaced(tmp_path: Path) -> None:
    bomb, good = ODD["parquet, one text for all rows"](tmp_path), honest(tmp_path, "parquet")
    for _ in range(2):
        with pytest.raises(FittestError, match="its reader was ended by SIGABRT"):
            check_parquet(bomb, None)
        assert set(check_parquet(good, None)) == set(ROWS[0])


def test_a_panic_says_nothing_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(40):
        _outcome(lambda seed=seed: _responses(damaged_parquet(tmp_path, seed)))
    assert capfd.readouterr() == ("", "")


def test_a_bomb_stays_within_its_memory(tmp_path: Path) -> None:
    ended = fittest("filter", ODD["gzip bomb, one line"](tmp_path), "--out", tmp_path / "out")
    assert (ended.status, ended.traceback) == (2, False)
    assert ended.peak_mib < MOST_MIB


def test_a_symbolic_link_is_read_as_its_own_name_says(tmp_path: Path) -> None:
    # a download cache keeps files under their hash, and links to them
    (tmp_path / "blob").write_text((honest(tmp_path)).read_text())
    (tmp_path / "pool.jsonl").symlink_to("blob")
    kinds = '[engine]\nkind = "null"\n[reward]\nkind = "null"\n[diversity]\nembedder = "hash"\n'
    (tmp_path / "run.toml").write_text(f'[pool]\npath = "pool.jsonl"\n{kinds}')
    done = CliRunner().invoke(main, ["check", str(tmp_path / "run.toml")])
    assert done.exit_code == 0, done.output


def _responses(path: Path) -> pl.DataFrame:
    return read_responses(path, Columns()).frame


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except FittestError as error:
        return "told in several lines" if "\n" in str(error) else "refused"
    return "read"


READERS: dict[str, Callable[[Path], object]] = {
    "responses": _responses,
    "pool": read_pool,
    "pairs": read_pairs,
}

_EVERY_KIND = """
import resource, sys, time
from pathlib import Path
from fittest.evo.errors import FittestError
from fittest.runs.reading import parquet
from tests.attacks.forge import ODD
from tests.attacks.test_files import READERS
for name in sys.argv[3:]:
    folder = Path(sys.argv[1]) / str(abs(hash(name)))
    folder.mkdir()
    path, began = ODD[name](folder), time.monotonic()
    try:
        READERS[sys.argv[2]](path)
        print(name, "read", sep="\\t")
    except FittestError as error:
        print(name, "refused" if "\\n" not in str(error) else "told in several lines", sep="\\t")
    assert time.monotonic() - began < 120, name
    path.unlink() if not path.is_dir() else None
parquet._child.close()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.attack
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_stays_within_its_memory_on_every_odd_file(reader: str, tmp_path: Path) -> None:
    ended = confined([sys.executable, "-c", _EVERY_KIND, str(tmp_path), reader, *ODD], seconds=600)
    assert ended.status == 0, ended.stderr[-2000:]
    *lines, of_children = ended.stdout.splitlines()
    outcomes = dict(line.split("\t") for line in lines)
    assert outcomes.keys() == ODD.keys()
    assert set(outcomes.values()) <= {"read", "refused"}
    assert max(ended.peak_mib, float(of_children)) < MOST_MIB


@pytest.mark.attack
@pytest.mark.parametrize("kind", BOMBS)
def test_a_verb_stays_within_its_memory_on_every_bomb(kind: str, tmp_path: Path) -> None:
    ended = fittest("filter", ODD[kind](tmp_path), "--out", tmp_path / "out", seconds=120)
    assert (ended.status, ended.traceback) == (2, False), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.peak_mib < MOST_MIB


@pytest.mark.attack
def test_two_thousand_damaged_parquet_files_never_end_the_process(tmp_path: Path) -> None:
    for seed in range(1_000, 3_000):
        path = damaged_parquet(tmp_path, seed)
        assert _outcome(lambda path=path: _responses(path)) in {"read", "refused"}, seed
        path.unlink()
