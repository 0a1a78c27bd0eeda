"""The journal of a run: an SQLite file that holds every reply, reward and embedding the moment it is known."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from fittest.evo.errors import FittestError
from fittest.evo.records import Completion, Failure, Milestone, Missing, Request
from fittest.evo.spending import Spending
from fittest.runs.output.salvage import salvaged

SCHEMA = 2

# texts go to the end of `replies`, which therefore has rows of its own: kept in the order of random keys, every commit
# would rewrite as many pages as it has replies
SCHEMA_SQL = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS issued (
    key TEXT NOT NULL, sample INTEGER NOT NULL, stage TEXT NOT NULL, session INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, sample INTEGER NOT NULL, text TEXT, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, failure TEXT, session INTEGER NOT NULL, at REAL NOT NULL, cached_tokens INTEGER,
    seconds REAL, PRIMARY KEY (key, sample));
CREATE TABLE IF NOT EXISTS rewards (
    fingerprint TEXT NOT NULL, pair TEXT NOT NULL, reward REAL, missing TEXT,
    PRIMARY KEY (fingerprint, pair)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (
    fingerprint TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (fingerprint, text)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (position INTEGER PRIMARY KEY, event TEXT NOT NULL, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    session INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, detail TEXT);
"""

KEEP_REPLY = """
INSERT OR IGNORE INTO replies (key, sample, session, at, text, finish_reason, prompt_tokens, completion_tokens,
    cached_tokens, seconds, failure) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

ADDED_IN_2 = ("cached_tokens INTEGER", "seconds REAL")
"""Columns that `replies` did not have in schema 1; its rows hold null there."""


def create_tables(database: sqlite3.Connection) -> None:
    """Make the tables of the current schema where they are not there yet, and bring older ones up to it."""
    database.executescript(SCHEMA_SQL)
    there = _columns_of(database, "replies")
    for column in ADDED_IN_2:
        # one by one: a process may have been killed between them
        if column.partition(" ")[0] not in there:
            database.execute(f"ALTER TABLE replies ADD COLUMN {column}")
    database.execute(f"PRAGMA user_version = {SCHEMA}")
    database.commit()


class SqliteJournal:
    """The journal protocol over SQLite in WAL mode; what `exchange` has returned from survives a killed process.

    Rewards and embeddings ride along with the next exchange: they follow from replies that are kept, and a commit
    for each would cost more than the feeder.

    Each opening is a session. Times are seconds since the session began, so that idle slots can be computed over all
    sessions; they stand here alone, never in a table of results.

    Args:
        path: the file, made when it is not there; ":memory:" keeps nothing.
        read_only: only look things up; the file must be there, and is left as it is.

    Raises:
        FittestError: the file is corrupted (what could be read is saved beside it), of a later schema, or unwritable.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._opened = time.monotonic()
        try:
            self._open()
        except sqlite3.OperationalError as error:
            raise FittestError(f"{path}: cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            lost = f"{path}: the journal is corrupted ({error})"
            raise FittestError(lost if read_only else salvaged(Path(path), error)) from None

    def _open(self) -> None:
        if self._read_only:
            self._db = sqlite3.connect(f"{Path(self.path).absolute().as_uri()}?mode=ro", uri=True)
        else:
            self._db = sqlite3.connect(self.path)
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -65536")
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.splitlines()[-1])
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise FittestError(
                f"{self.path}: written by a later fittest (journal schema {schema}, this one reads up to {SCHEMA});"
                " update fittest"
            )
        if not self._read_only:
            create_tables(self._db)
        later = "cached_tokens, seconds" if "seconds" in _columns_of(self._db, "replies") else "NULL, NULL"
        self._find_reply = (
            f"SELECT text, finish_reason, prompt_tokens, completion_tokens, failure, {later} FROM replies"
            " WHERE key = ? AND sample = ?"
        )
        if self._read_only:
            return
        (last,) = self._db.execute("SELECT max(session) FROM events").fetchone()
        self.session = (last or 0) + 1
        self.event("opened")

    def close(self) -> None:
        """Commit and close; the journal cannot be used after it. A disk that is full does not keep it open."""
        with suppress(FittestError):
            if not self._read_only:
                self.event("closed")
        self._db.close()

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """What was answered to this request, in this session or an earlier one."""
        row = self._db.execute(self._find_reply, (key, sample)).fetchone()
        if row is None:
            return None
        text, finish_reason, prompt_tokens, completion_tokens, failure, cached_tokens, seconds = row
        if failure is not None:
            return Failure(failure)
        finish_reason = cast("Literal['stop', 'length']", finish_reason)
        return Completion(text, finish_reason, prompt_tokens, completion_tokens, cached_tokens or 0, seconds or 0.0)

    def exchange(
        self,
        replies: Sequence[tuple[str, int, Completion | Failure]],
        requests: Sequence[tuple[str, Request]],
    ) -> None:
        """Keep replies, of which the first to a request stands, and log requests before they are sent."""
        at = self._now()
        answered = [(key, sample, self.session, at, *_columns(reply)) for key, sample, reply in replies]
        sent = [(key, request.sample, request.stage, self.session, at) for key, request in requests]
        with self._writing():
            self._db.executemany(KEEP_REPLY, answered)
            self._db.executemany("INSERT INTO issued VALUES (?, ?, ?, ?, ?)", sent)
            self._db.commit()

    def spent(self) -> Spending:
        """What all replies of all sessions have cost."""
        later = "sum(cached_tokens), sum(seconds)" if "seconds" in _columns_of(self._db, "replies") else "0, 0"
        requests, prompt, completion, cached, seconds = self._db.execute(
            f"SELECT count(*), sum(prompt_tokens), sum(completion_tokens), {later} FROM replies"
        ).fetchone()
        return Spending(requests, prompt or 0, cached or 0, completion or 0, seconds or 0.0)

    def rewards(self, fingerprint: str, pairs: Sequence[str]) -> dict[str, float | Missing]:
        """The rewards known for these pair hashes."""
        marks = ", ".join("?" * len(pairs))
        rows = self._db.execute(
            f"SELECT pair, reward, missing FROM rewards WHERE fingerprint = ? AND pair IN ({marks})",
            (fingerprint, *pairs),
        )
        return {pair: Missing(missing) if reward is None else reward for pair, reward, missing in rows}

    def record_rewards(self, fingerprint: str, rewards: dict[str, float | Missing]) -> None:
        """Keep rewards by pair hash."""
        rows = [
            (fingerprint, pair, None, reward.reason)
            if isinstance(reward, Missing)
            else (fingerprint, pair, reward, None)
            for pair, reward in rewards.items()
        ]
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO rewards VALUES (?, ?, ?, ?)", rows)

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """The embedding known for this text."""
        row = self._db.execute(
            "SELECT vector FROM embeddings WHERE fingerprint = ? AND text = ?", (fingerprint, _text_hash(text))
        ).fetchone()
        return None if row is None else np.frombuffer(row[0], dtype="<f4")

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keep an embedding."""
        row = (fingerprint, _text_hash(text), vector.astype("<f4").tobytes())
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)", row)

    def milestones(self) -> list[Milestone]:
        """The order of events of a steady-state run; a journal of schema 1 has none."""
        if "event" not in _columns_of(self._db, "turns"):
            return []
        return [Milestone(*row) for row in self._db.execute("SELECT event, number FROM turns ORDER BY position")]

    def record_milestone(self, position: int, milestone: Milestone) -> None:
        """Keep one milestone of that order."""
        with self._writing():
            self._db.execute("INSERT INTO turns VALUES (?, ?, ?)", (position, *milestone))

    def event(self, event: str, detail: str | None = None) -> None:
        """Log what happened to the run: opened, closed, a cap, an interruption."""
        with self._writing():
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (self.session, self._now(), event, detail))
            self._db.commit()

    def meta(self, name: str) -> str | None:
        """A fact about the run, such as the fingerprint of its model."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def record_meta(self, name: str, value: str) -> None:
        """Keep a fact about the run."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
            self._db.commit()

    def seconds(self) -> float:
        """Wall time of all sessions; of one that was killed, up to the last thing it wrote."""
        (total,) = self._db.execute(
            "SELECT sum(seconds) FROM (SELECT max(at) AS seconds FROM (SELECT session, at FROM events"
            " UNION ALL SELECT session, at FROM replies) GROUP BY session)"
        ).fetchone()
        return float(total or 0.0)

    def in_flight_changes(self) -> Iterator[tuple[int, float, int]]:
        """(session, seconds, +1 or −1) in order of time: requests sent, and their replies."""
        return self._db.execute(
            "SELECT session, at, 1 AS change FROM issued UNION ALL SELECT session, at, -1 FROM replies"
            " ORDER BY session, at, change"
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._db.rollback()
            raise FittestError(f"{self.path}: {error}; nothing that was answered before is lost") from None

    def _now(self) -> float:
        return time.monotonic() - self._opened


def _columns(reply: Completion | Failure) -> tuple[object, ...]:
    if isinstance(reply, Failure):
        return (None, None, None, None, None, None, reply.reason)
    return (
        reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens,
        reply.seconds, None,
    )  # fmt: skip


def _columns_of(database: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
