"""What a command may write: its own folder, a new one, and files that are in nobody's; each refusal is one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fittest.evo.errors import FittestError
from fittest.runs.cli import main
from fittest.runs.config import Config, parse_config
from fittest.runs.filters.filter import filter
from fittest.runs.output.export import export
from fittest.runs.output.places import claimed
from fittest.runs.session import run
from tests.conftest import null_tables

CONFIG = """
[run]
seed = 3
generations = 0
[pool]
path = "builtin:starter"
limit = 12
[engine]
kind = "null"
[engine.sampling]
n = 2
max_tokens = 20
[reward]
kind = "null"
[diversity]
embedder = "hash"
"""

JUDGE = '[engine]\nkind = "null"\n'

PAIR = '{"instruction": "Name a lake.", "response_a": "Como.", "response_b": "No.", "label": "A"}\n'


def fittest(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert "Traceback" not in lines[0]
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a run, a filter, and the folders of three steps of a judge."""
    place = tmp_path_factory.mktemp("made")
    (place / "run.toml").write_text(CONFIG)
    (place / "judge.toml").write_text(JUDGE)
    (place / "pairs.jsonl").write_text(PAIR)
    (place / "tasks.jsonl").write_text('{"prompt": "Name a lake."}\n{"prompt": "Name a hill."}\n')
    (place / "rows.jsonl").write_text(
        "".join(f'{{"prompt": "p{n % 4}", "response": "r{n}", "reward": {n % 7}}}\n' for n in range(12))
    )
    run(parse_config(null_tables(run={"generations": 1})), place / "run")
    for command in COMMANDS[1:]:
        # what the null engine says is no verdict and no pair, but the folder is begun all the same
        fittest(*command_line(command, place, place / command.replace(" ", "-")))
    return place


COMMANDS = ("run", "filter", "ablate", "judge select", "judge pairs", "judge annotate", "judge infer")


def command_line(command: str, place: Path, out: object) -> list[object]:
    inputs: dict[str, list[object]] = {
        "run": [place / "run.toml"],
        "filter": [place / "rows.jsonl"],
        "ablate": [place / "rows.jsonl"],
        "judge select": [place / "tasks.jsonl", "--config", place / "judge.toml"],
        "judge pairs": [place / "tasks.jsonl", "--config", place / "judge.toml"],
        "judge annotate": [place / "pairs.jsonl", "--config", place / "judge.toml"],
        "judge infer": [place / "pairs.jsonl", "--config", place / "judge.toml"],
    }
    return [*command.split(), *inputs[command], "--out", out]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("owner", COMMANDS)
def test_a_command_leaves_the_folders_of_others_alone(command: str, owner: str, made: Path) -> None:
    folder = made / owner.replace(" ", "-")
    before = contents(folder)
    assert before
    result = fittest(*command_line(command, made, folder))
    if command == owner:
        return
    assert f"the folder of `fittest {'judge eval' if owner == 'judge infer' else owner}`" in refused(result)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["run.toml", "journal.sqlite", "survivors.parquet", "card.md", ".lock", "new.tmp"])
@pytest.mark.parametrize("way", ["itself", "symlink", "hard link", "linked folder", "dots"])
def test_an_export_replaces_no_part_of_a_run(name: str, way: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "run", folder)
    target = folder / name if name != "new.tmp" else folder / "responses" / name
    out = target
    if way == "symlink":
        out = tmp_path / "link"
        out.symlink_to(target)
    elif way == "hard link":
        if name == "new.tmp":
            pytest.skip("there is no file to link to")
        out = tmp_path / "link"
        os.link(target, out)
    elif way == "linked folder":
        (tmp_path / "other").symlink_to(target.parent)
        out = tmp_path / "other" / target.name
    elif way == "dots":
        out = folder / "generations" / ".." / target.relative_to(folder)
    before = contents(tmp_path)
    said = refused(fittest("export", folder, "--to", "trl-sft", "--out", out))
    assert "is a part of" in said or "is read by this command" in said
    assert contents(tmp_path) == before


def test_a_card_that_would_replace_ours_is_refused_as_well(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "card"
    shutil.copytree(made / "run", folder)
    for name in ("pairs.card.md", "pairs.x.card.md"):
        (folder / name).symlink_to("run.toml")
    before = contents(folder)
    assert "is a part of" in refused(fittest("export", folder, "--to", "trl-sft", "--out", folder / "pairs.x"))
    assert contents(folder) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "working folder"),
        ("", "working folder"),
        ("file", "is a file; --out names a folder"),
        ("file/below", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("/proc/no-such-folder", "cannot write there"),
    ],
)
def test_a_place_that_can_be_no_folder_is_one_line(
    command: str, out: str, message: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert message in refused(fittest(*command_line(command, made, out)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "is a folder; --out names a file"),
        ("", "is a folder; --out names a file"),
        ("folder", "is a folder; --out names a file"),
        ("file/below", "Not a directory"),
        ("x" * 300, "File name too long"),
        # its card would have a longer name than a file may have
        ("x" * 250, "File name too long"),
        ("/proc/no-such-file", "cannot write"),
        ("pipe", "is a device or a pipe"),
    ],
)
def test_a_place_that_can_be_no_file_is_one_line(
    out: str, message: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    assert message in refused(fittest("export", made / "run", "--to", "trl-sft", "--out", out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_a_file_that_is_read_is_not_replaced(made: Path, tmp_path: Path) -> None:
    read = tmp_path / "survivors.parquet"
    fittest("export", made / "run", "--to", "responses", "--out", read)
    before = read.read_bytes()
    assert "holds a survivors.parquet" in refused(fittest("filter", read, "--out", tmp_path))
    assert read.read_bytes() == before
    # in a folder that is the command's own, where its other files may be replaced
    out = tmp_path / "out"
    assert fittest("filter", read, "--out", out).exit_code == 0
    shutil.copy(read, out / "rejected.parquet")
    assert "is read by this command" in refused(fittest("filter", out / "rejected.parquet", "--out", out))
    assert (out / "rejected.parquet").read_bytes() == before


@pytest.mark.parametrize("inside", ["generations", "responses", "generations/deeper", "journal.sqlite-extra"])
def test_no_folder_is_begun_inside_the_parts_of_a_run(inside: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "run", folder)
    before = contents(folder)
    assert "is a part of" in refused(fittest(*command_line("filter", made, folder / inside)))
    assert contents(folder) == before
    # elsewhere in it there is nothing of the run
    assert fittest(*command_line("filter", made, folder / "kept")).exit_code == 0


def test_folders_of_earlier_versions_are_known_without_a_mark(made: Path, tmp_path: Path) -> None:
    for owner in COMMANDS:
        folder = tmp_path / owner.replace(" ", "-")
        shutil.copytree(made / folder.name, folder)
        (folder / ".lock").write_text("")
        other = "filter" if owner != "filter" else "ablate"
        assert "the folder of" in refused(fittest(*command_line(other, made, folder)))


def test_a_file_of_another_program_is_no_mark(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").write_text("4711")
    assert "holds a .lock that fittest did not write" in refused(fittest(*command_line("filter", made, out)))
    assert (out / ".lock").read_text() == "4711"


def test_somebody_elses_file_is_not_replaced(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text("mine")
    assert "holds a summary.json" in refused(fittest(*command_line("filter", made, out)))
    assert [path.name for path in out.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("judge select", "labels.parquet"), ("judge infer", "verdicts.parquet"), ("filter", "rejected.parquet"),
        ("judge pairs", "held_out.jsonl"), ("ablate", "ablation.parquet"),
    ],
)  # fmt: skip
def test_a_table_of_a_usual_name_is_not_taken_for_ours(
    command: str, name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert "working folder" in refused(fittest(*command_line(command, made, ".")))
    monkeypatch.chdir(tmp_path.parent)
    assert f"holds a {name} that is not of" in refused(fittest(*command_line(command, made, tmp_path)))
    assert contents(tmp_path) == {str(tmp_path / name): b"mine"}


def test_a_path_with_nul_in_it_is_one_line(null_config: Config, made: Path) -> None:
    # no shell can give one, but a script can
    calls: list[Callable[[], object]] = [
        lambda: run(null_config, "nul\0nul"),
        lambda: filter(made / "rows.jsonl", "nul\0nul"),
        lambda: export(made / "run", to="trl-sft", out=Path("nul\0nul")),
    ]
    for call in calls:
        with pytest.raises(FittestError, match=r"nul\\x00nul: cannot write there: .*null"):
            call()


def test_a_run_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.replace("builtin:starter", "nowhere.jsonl"))
    result = fittest("run", config, "--out", tmp_path / "deep" / "out")
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]
    # a folder of the user's stays, empty as it was
    (tmp_path / "mine").mkdir()
    assert fittest("run", config, "--out", tmp_path / "mine").exit_code == 2
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_two_processes_do_not_write_one_folder(command: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    name = "judge eval" if command == "judge infer" else command
    with claimed(out, name):
        assert "another fittest process is writing" in refused(fittest(*command_line(command, made, out)))
    assert not out.exists()


def test_a_run_in_the_working_folder_goes_on_there(null_config: Config, tmp_path: Path) -> None:
    run(null_config, tmp_path / "run")
    before = Path.cwd()
    os.chdir(tmp_path / "run")
    try:
        assert run(null_config, ".", resume=True).evolution is None
    finally:
        os.chdir(before)


def test_two_exports_of_one_stem_have_a_card_each(made: Path, tmp_path: Path) -> None:
    for suffix in ("jsonl", "parquet", "jsonl"):
        result = fittest("export", made / "run", "--to", "trl-sft", "--out", tmp_path / f"x.{suffix}")
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "x.card.md", "x.jsonl", "x.parquet", "x.parquet.card.md",
    ]  # fmt: skip
    assert "x.jsonl: " in (tmp_path / "x.card.md").read_text()
    assert "x.parquet: " in (tmp_path / "x.parquet.card.md").read_text()
