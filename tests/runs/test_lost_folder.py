"""A folder that is deleted, moved or replaced in the middle of a run ends it with one line; nothing is asked twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fittest.evo.errors import FittestError
from fittest.runs.asking import asked, journal_at
from fittest.runs.config import parse_config
from fittest.runs.output.held import FolderLostError, Held
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.output.places import claimed
from fittest.runs.session import arun, run
from tests.conftest import null_tables
from tests.scripted_engine import Scripted, echo, request


def delete(folder: Path) -> None:
    # as one step: a run that writes there meanwhile would bring files back while they are removed one by one
    folder.rename(folder.with_name("deleted"))
    shutil.rmtree(folder.with_name("deleted"))


def move(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replace(folder: Path) -> None:
    move(folder)
    shutil.copytree(folder.with_name("moved"), folder)


def unlock(folder: Path) -> None:
    (folder / ".lock").unlink()


def lock_anew(folder: Path) -> None:
    unlock(folder)
    (folder / ".lock").write_text("run\n")


def delete_journal(folder: Path) -> None:
    (folder / "journal.sqlite").unlink()


def delete_log(folder: Path) -> None:
    (folder / "journal.sqlite-wal").unlink()


def replace_journal(folder: Path) -> None:
    shutil.copy(folder / "journal.sqlite", folder / "copy")
    (folder / "copy").rename(folder / "journal.sqlite")


WAYS = (delete, move, replace, unlock, lock_anew, delete_journal, delete_log, replace_journal)


def tree(folder: Path) -> dict[str, bytes]:
    """What the files hold; a journal is only known to be there.

    Until the loss is seen, it takes replies, and SQLite moves some of them from the log into it now and then.
    """
    return {
        str(file): b"" if file.name == "journal.sqlite" else file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize(
    ("way", "mode"),
    [*((way, "generational") for way in WAYS), (delete, "steady-state"), (lock_anew, "steady-state")],
)
def test_a_run_stops_when_its_folder_is_lost(way: Callable[[Path], None], mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # rewards are given in a thread of their own, which may be behind when the run has stopped already
    done, after = threading.Event(), list[dict[str, bytes]]()

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        # the card is the last file of a generation: before it, all of them may be in the middle of being written
        if not after and (folder / "card.md").exists():
            way(folder)
            after.append(tree(tmp_path))
            done.set()
        return [float(len(response) % 7) for response in responses]

    config = parse_config(null_tables(run={"mode": mode}, engine={"latency": 0.002}))
    with pytest.raises(FolderLostError, match=r"was (deleted or moved|replaced).* has stopped"):
        run(config, folder, reward=reward)
    assert done.wait(30)
    assert [tree(tmp_path)] == after


def test_another_process_may_begin_in_a_place_that_was_lost(tmp_path: Path) -> None:
    # the log of the new journal has the path of the old one's, which SQLite deletes when it closes the old one
    folder = tmp_path / "run"
    folder.mkdir()
    old = SqliteJournal(folder / "journal.sqlite")
    move(folder)
    folder.mkdir()
    new = SqliteJournal(folder / "journal.sqlite")
    log = (folder / "journal.sqlite-wal").stat()
    old.close()
    assert os.path.samestat((folder / "journal.sqlite-wal").stat(), log)
    new.close()


def test_a_journal_that_was_moved_with_something_uncommitted_is_not_locked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    old = SqliteJournal(folder / "journal.sqlite")
    old.record_measurements("reward", {"a": 1.0})
    move(folder)
    old.close()
    with SqliteJournal(tmp_path / "moved" / "journal.sqlite") as new:
        assert new.measurements("reward", ["a"]) == {}


def test_a_judge_stops_when_its_folder_is_lost(tmp_path: Path) -> None:
    async def answer(asked_for: object) -> str:
        await asyncio.sleep(0.15)
        if (tmp_path / "out").exists():
            delete(tmp_path / "out")
        return "text"

    with (
        claimed(tmp_path / "out", "judge pairs") as claim,
        journal_at(tmp_path / "out" / "journal.sqlite", claim.held) as journal,
        pytest.raises(FolderLostError),
    ):
        asked("replies", [request(number) for number in range(8)], Scripted(answer, slots=2), journal)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_outside_a_claim_is_guarded_as_well(tmp_path: Path) -> None:
    with journal_at(tmp_path / "a" / "journal.sqlite") as journal:
        asked("replies", [request(1)], Scripted(echo), journal)
        delete(tmp_path / "a")
        held = journal._held
        with pytest.raises(FolderLostError):
            held.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", ["gone", "empty"])
def test_sealed_generations_without_their_journal_are_not_asked_for_again(loss: str, tmp_path: Path) -> None:
    config = parse_config(null_tables(budget={"max_requests": 300}))
    run(config, tmp_path / "run")
    (tmp_path / "run" / "journal.sqlite").unlink()
    if loss == "empty":
        (tmp_path / "run" / "journal.sqlite").touch()
    before = tree(tmp_path)
    more = parse_config(null_tables())
    with pytest.raises(FittestError, match=r"journal\.sqlite: is gone, though \d generations are sealed"):
        run(more, tmp_path / "run", resume=True)
    assert {name for name in tree(tmp_path) if "journal" in name} == {name for name in before if "journal" in name}


def test_a_run_that_is_lost_may_go_on_where_it_was_moved_to(tmp_path: Path) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    whole = parse_config(null_tables())

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        if folder.exists() and (folder / "generations" / "0001.parquet").exists():
            move(folder)
        return [float(len(response) % 7) for response in responses]

    with pytest.raises(FolderLostError):
        run(whole, folder, reward=reward)
    assert run(whole, moved, resume=True, reward=reward).summary["stop_reason"] == "generations"
    with closing(sqlite3.connect(moved / "journal.sqlite")) as database:
        query = "SELECT count(*) FROM issued JOIN replies USING (key, sample) WHERE issued.session > replies.session"
        assert database.execute(query).fetchone() == (0,)
    run(whole, tmp_path / "other", reward=reward)
    for name in ("survivors.parquet", "logbook.parquet", "pairs.jsonl"):
        assert (moved / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_looks_are_taken_now_and_then(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    held = Held()
    held.keep(file)
    held.look()
    file.unlink()
    held._due = 0.0
    with pytest.raises(FolderLostError):
        held.look()


def test_arun_in_the_same_folder_twice_is_refused(tmp_path: Path) -> None:
    config = parse_config(null_tables(engine={"latency": 0.05}))

    async def both() -> list[object]:
        two = (arun(config, tmp_path / "run") for _ in range(2))
        return list(await asyncio.gather(*two, return_exceptions=True))

    ended = asyncio.run(both())
    assert sum(isinstance(one, FittestError) for one in ended) == 1
