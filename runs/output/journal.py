"""The journal of a run: an SQLite file that holds every reply, measurement and embedding the moment it is known."""

from __future__ import annotations

import ctypes
import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from fittest.evo.errors import FittestError
from fittest.evo.records import STAGES, Completion, Failure, Milestone, Missing, Request, Stage
from fittest.evo.spending import MOST_TOKENS, Ledger, Spending, tokens_in
from fittest.evo.visible import visible
from fittest.runs.output.atomic import make_private
from fittest.runs.output.held import FolderLostError, Held
from fittest.runs.output.journal_damage import Found, look_at, mend, refuse_broken, refuse_other_layout
from fittest.runs.output.journal_log import refuse_broken_log
from fittest.runs.output.journal_rows import (
    CHECKED,
    EMBEDDINGS,
    KEPT,
    MEASUREMENTS,
    META,
    MILESTONES,
    MOST_BYTES,
    REPLIES,
    TABLES,
    Table,
    sound,
    with_checksum,
)  # fmt: skip
from fittest.runs.output.journal_schema import SCHEMA, SEALED, create_tables, key_of, show_as_current
from fittest.runs.output.salvage import salvaged

_KEEP = {
    table.name: f"INSERT OR IGNORE INTO {table.name} ({', '.join(table.columns)}, checksum)"
    f" VALUES ({', '.join('?' * len(table.columns))}, ?)"
    for table in CHECKED
}
_FIND = {table: f"SELECT {', '.join(table.columns)}, checksum FROM {table.name}" for table in CHECKED}
_FIND_REPLY = f"{_FIND[REPLIES]} WHERE key = ? AND sample = ?"

_SUBJECTS_AT_ONCE = 10_000
"""Most subjects that one statement names; SQLite takes 32,766 values as it is built by default."""


class LogEnd(NamedTuple):
    """Says how far the logs have been read.

    Attributes:
        issued: the last row of the log of requests.
        replies: the last row of the replies.
        forgotten: how often replies were forgotten by then, whose rows may be other replies' afterwards.
    """

    issued: int
    replies: int
    forgotten: int


class SqliteJournal:
    """The journal protocol over SQLite in WAL mode; what `exchange` has returned from survives a killed process.

    Measurements and embeddings ride along with the next exchange: they follow from replies that are kept, and a commit
    for each would cost more than the feeder.

    Each opening is a session. Times are seconds since the session began, so that idle slots can be computed over all
    sessions; they stand here alone, never in a table of results.

    Args:
        path: the file, which is made when it is not there; ":memory:" keeps nothing.
        read_only: whether things are only looked up; the file must be there, and is left as it is.
        held: the files that must stay where they are while the journal is written; its own are added.

    Raises:
        FittestError: the file is corrupted (what could be read is saved beside it), of a later schema, or unwritable.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False, held: Held | None = None) -> None:
        self.path = path
        self._read_only = read_only
        self._held = held or Held()
        self._opened = time.monotonic()
        self._stages: dict[tuple[str, int], Stage] = {}
        self._added: Counter[str] = Counter()
        self._forgotten = 0
        self._unchecked = False
        self._had_log = False
        self.mended = False
        try:
            with ExitStack() as failed:
                self._db = self._connected()
                failed.callback(self._db.close)
                self._open()
                failed.pop_all()
        except sqlite3.OperationalError as error:
            raise FittestError(f"{path}: cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            lost = f"{path}: the journal is corrupted ({error})"
            raise FittestError(lost if read_only else salvaged(Path(path), error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connected(self) -> sqlite3.Connection:
        if self._read_only:
            return sqlite3.connect(f"{Path(self.path).absolute().as_uri()}?mode=ro", uri=True)
        refuse_broken_log(Path(self.path))
        self._had_log = Path(f"{self.path}-wal").is_file()
        if self.path != ":memory:":
            make_private(Path(self.path))  # the files beside it get the same mode
        return sqlite3.connect(self.path)

    def _open(self) -> None:
        if not self._read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
        # a text that is damaged fails its checksum, whatever its bytes are
        self._db.text_factory = lambda text: text.decode(errors="surrogateescape")
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -65536")
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise FittestError(
                f"{self.path}: written by a later fittest (journal schema {schema}, this one reads up to {SCHEMA});"
                " update fittest"
            )
        if self._read_only:
            self._open_read_only(schema)
            return
        reindex = refuse_broken(self._db)
        create_tables(self._db)
        refuse_other_layout(self._db)
        lines = mend(self._db, reindex=reindex)
        lines += self._told_lost_log() if schema == SCHEMA else []
        self.mended = bool(lines)
        (last,) = self._db.execute("SELECT max(session) FROM events").fetchone()
        self.session = (last or 0) + 1
        for line in lines:
            self.event("damaged", line)
        self.event("opened")
        for file in self._files:
            # one in memory has none, and some file systems allow no log beside it
            if file.is_file():
                self._held.keep(file)

    def _open_read_only(self, schema: int) -> None:
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.splitlines()[-1])
        if self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            # the process that made it was killed before anything was in it
            self._db.close()
            self._db = sqlite3.connect(":memory:")
            create_tables(self._db)
            schema = SCHEMA
        self._unchecked = schema < SCHEMA
        show_as_current(self._db)
        if not self._unchecked:
            refuse_other_layout(self._db)

    def _told_lost_log(self) -> list[str]:
        """Returns a line if the last session was not closed, and what it leaves beside the journal is not there."""
        last = self._db.execute("SELECT event FROM events ORDER BY rowid DESC LIMIT 1").fetchone()
        if self._had_log or last is None or last[0] in ("closed", "damaged"):
            return []
        return [
            "the last session was not closed, and its -wal file is not there; if it was removed, the last replies are"
            " lost, and asked for again"
        ]

    def close(self) -> None:
        """Commits and closes; the journal cannot be used after it. A disk that is full does not keep it open."""
        try:
            if not self._read_only:
                self._held.check()
                self.event("closed")
        except FolderLostError:
            # what waits for a commit would keep the journal locked in its new place, for as long as this process lives
            self._db.rollback()
            # SQLite would delete the log beside its path, where another process may be at work by now
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))
            return
        except FittestError:
            pass
        self._db.close()
        for file in self._files:
            self._held.drop(file)

    @property
    def _files(self) -> tuple[Path, Path]:
        return Path(self.path), Path(f"{self.path}-wal")

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """Returns what was answered to this request, in this session or an earlier one."""
        row = self._found(REPLIES, _FIND_REPLY, (key, sample))
        if row is None:
            return None
        text, finish_reason, prompt_tokens, completion_tokens, failure = row[2:7]
        cached_tokens, seconds, reasoning = row[9:12]
        if failure is not None:
            return Failure(failure)
        finish_reason = cast("Literal['stop', 'length']", finish_reason)
        # a journal of before may hold counts that no request has
        read, written, cached = map(tokens_in, (prompt_tokens, completion_tokens, cached_tokens))
        return Completion(text, finish_reason, read, written, cached, seconds or 0.0, reasoning)

    def exchange(
        self,
        replies: Sequence[tuple[str, int, Completion | Failure]],
        requests: Sequence[tuple[str, Request]],
    ) -> None:
        """Keeps replies, of which the first to a request stands, and logs requests before they are sent."""
        at = self._now()
        answered = [
            _columns(key, sample, reply, self.session, at, self._stages.pop((key, sample), None))
            for key, sample, reply in replies
        ]
        self._stages |= {(key, request.sample): request.stage for key, request in requests}
        sent = [(key, request.sample, request.stage, self.session, at) for key, request in requests]
        with self._writing():
            self._keep(REPLIES, answered)
            self._db.executemany("INSERT INTO issued VALUES (?, ?, ?, ?, ?)", sent)
            self._commit()

    def forget(self, failures: Sequence[tuple[str, int]]) -> None:
        """Forgets failures, by key and sample, which are asked for again; a completion stays."""
        with self._writing():
            self._forget(REPLIES, "key = ? AND sample = ? AND failure IS NOT NULL", failures)
            self._forgotten += 1
            self._commit()

    def spent(self) -> Ledger:
        """Returns what all replies of all sessions have cost; one whose request is not logged counts as a rollout."""
        found = Ledger()
        # counts that no request has are none, as in `reply`
        sums = ", ".join(
            f"sum(CASE WHEN {name}_tokens BETWEEN 0 AND {MOST_TOKENS} THEN {name}_tokens END)"
            for name in ("prompt", "completion", "cached")
        )
        for stage, requests, prompt, completion, cached, seconds in self._rows(
            f"SELECT coalesce(stage, 'rollout') AS of_stage, count(*), {sums}, sum(seconds) FROM replies"
            " GROUP BY of_stage"
        ):
            found.add(stage, Spending(requests, prompt or 0, cached or 0, completion or 0, seconds or 0.0))
        return found

    def measurements(self, fingerprint: str, subjects: Sequence[str]) -> dict[str, float | Missing]:
        """Returns what is known of these subjects; those of which nothing is known are left out."""
        found: dict[str, float | Missing] = {}
        for start in range(0, len(subjects), _SUBJECTS_AT_ONCE):
            some = subjects[start : start + _SUBJECTS_AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = f"{_FIND[MEASUREMENTS]} WHERE fingerprint = ? AND subject IN ({marks})"
            for row in self._rows(query, (fingerprint, *some)):
                _, subject, value, missing, _ = self._sound(MEASUREMENTS, row)
                found[subject] = Missing(missing) if value is None else value
        return found

    def forget_missing(self, fingerprint: str, subjects: Sequence[str]) -> None:
        """Forgets that the measurements of these subjects are missing; numbers stay."""
        with self._writing():
            named = [(fingerprint, subject) for subject in subjects]
            self._forget(MEASUREMENTS, "fingerprint = ? AND subject = ? AND missing IS NOT NULL", named)
            self._commit()

    def record_measurements(self, fingerprint: str, measurements: Mapping[str, float | Missing]) -> None:
        """Keeps measurements by subject, of which the first of a subject stands."""
        rows = [
            (fingerprint, subject, None, value.reason)
            if isinstance(value, Missing)
            else (fingerprint, subject, _real(value), None)
            for subject, value in measurements.items()
        ]
        with self._writing():
            self._keep(MEASUREMENTS, rows)

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """Returns the embedding known for this text, if any."""
        row = self._found(
            EMBEDDINGS, f"{_FIND[EMBEDDINGS]} WHERE fingerprint = ? AND text = ?", (fingerprint, _text_hash(text))
        )
        return None if row is None else np.frombuffer(row[2], dtype="<f4")

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keeps an embedding."""
        row = (fingerprint, _text_hash(text), vector.astype("<f4").tobytes())
        with self._writing():
            self._keep(EMBEDDINGS, [row])

    def milestones(self) -> list[Milestone]:
        """Returns the order of events of a steady-state run; a generational run has none."""
        rows = self._rows(f"{_FIND[MILESTONES]} ORDER BY position")
        return [Milestone(*self._sound(MILESTONES, row)[1:3]) for row in rows]

    def record_milestone(self, position: int, milestone: Milestone) -> None:
        """Keeps one milestone of that order."""
        with self._writing():
            self._keep(MILESTONES, [(position, *milestone)])

    def event(self, event: str, detail: str | None = None) -> None:
        """Logs what happened to the run: it was opened or closed, reached a cap, or was interrupted."""
        with self._writing():
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (self.session, self._now(), event, detail))
            self._commit()

    def meta(self, name: str) -> str | None:
        """Returns a fact about the run, such as the fingerprint of its model."""
        row = self._found(META, f"{_FIND[META]} WHERE name = ?", (name,))
        return None if row is None else str(row[1])

    def record_meta(self, name: str, value: str) -> None:
        """Keeps a fact about the run."""
        with self._writing():
            self._forget(META, "name = ?", [(name,)])
            self._keep(META, [(name, value)])
            self._commit()

    def forget_meta(self, name: str) -> None:
        """Forgets a fact about the run."""
        with self._writing():
            self._forget(META, "name = ?", [(name,)])
            self._commit()

    def record_sealed(self, name: str, digest: str) -> None:
        """Keeps the hash of a table before its file gets its name, with that of the table which it replaces.

        A process that is killed in between leaves a table whose hash is known. What the table rests on is on the disk
        by then, so that a power cut does not leave a table that the journal knows nothing of.

        Args:
            name: the path of the table in the folder of the run.
            digest: the hash of its content.
        """
        before = (self.meta(SEALED + name) or "").split()[:1]
        if before == [digest]:
            return
        with self._writing():
            self._commit()
            self._db.execute("PRAGMA synchronous = FULL")
            self.record_meta(SEALED + name, " ".join([digest, *before]))
            self._db.execute("PRAGMA synchronous = NORMAL")

    def seconds(self) -> float:
        """Returns the wall time of all sessions; one that was killed counts up to the last thing it wrote."""
        ((total,),) = self._rows(
            "SELECT sum(seconds) FROM (SELECT max(at) AS seconds FROM (SELECT session, at FROM events"
            " UNION ALL SELECT session, at FROM replies) GROUP BY session)"
        )
        return float(total or 0.0)

    def log_end(self) -> LogEnd | None:
        """Returns where the logs of requests and replies end now; None if replies lie in the order of their keys."""
        if key_of(self._db, REPLIES) != ("rowid",):
            return None
        ((issued, replies),) = self._rows("SELECT (SELECT max(rowid) FROM issued), (SELECT max(rowid) FROM replies)")
        return LogEnd(issued or 0, replies or 0, self._forgotten)

    def in_flight_changes(
        self, stages: Collection[Stage] = STAGES, *, after: LogEnd | None = None
    ) -> Iterator[tuple[int, float, int]]:
        """Yields (session, seconds, +1 or −1) in order of time, for requests that were sent and for their replies.

        Args:
            stages: those whose requests count; what one engine does is told by the stages that it serves.
            after: an earlier end of the logs: only what came after it is read. None reads all.
        """
        marks = ", ".join("?" * len(stages))
        issued, replies = (f" AND rowid > {after.issued}", f" AND rowid > {after.replies}") if after else ("", "")
        return self._db.execute(
            f"SELECT session, at, 1 AS change FROM issued WHERE stage IN ({marks}){issued}"
            f" UNION ALL SELECT session, at, -1 FROM replies WHERE coalesce(stage, 'rollout') IN ({marks}){replies}"
            " ORDER BY session, at, change",
            (*stages, *stages),
        )

    def damage(self) -> list[str]:
        """Returns what was damaged in this session or an earlier one, in a line for each kind."""
        rows = self._rows("SELECT detail FROM events WHERE event = 'damaged' ORDER BY rowid")
        return [f"{Path(self.path).name}: {visible(str(detail))}" for (detail,) in rows]

    def inspect(self, tables: Sequence[Table] = TABLES) -> Iterator[Found]:
        """Reads every row of some tables, and yields what was found of each table."""
        for table in tables:
            if table is not KEPT or not self._unchecked:
                yield look_at(self._db, table, unchecked=self._unchecked)

    def is_indexed(self) -> bool:
        """Looks at every page, and tells whether each reply is found by its key."""
        return not refuse_broken(self._db)

    def refuse_damaged(self, tables: Sequence[Table] = TABLES) -> None:
        """Raises an error if a row of some tables is damaged or lost; a journal that is only read cannot be mended."""
        if lines := [line for found in self.inspect(tables) if (line := found.damage) is not None]:
            raise FittestError(f"{self.path}: {lines[0]}, when the run that it belongs to is resumed")

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise FittestError(f"{self.path}: the journal is damaged ({error})") from None

    def _found(self, table: Table, query: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        """Returns the row that is looked for, if it is there."""
        rows = self._rows(query, values)
        return self._sound(table, rows[0]) if rows else None

    def _sound(self, table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
        # all rows were looked at when the journal was opened to be written: this one was damaged since
        if not sound(table, row, unchecked=self._unchecked):
            raise FittestError(f"{self.path}: some of its {table.told[0]} are damaged")
        return row

    def _keep(self, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
        """Inserts rows of which no other has the key; the next commit makes them safe, and counts them."""
        self._added[table.name] += self._db.executemany(_KEEP[table.name], map(with_checksum, rows)).rowcount

    def _forget(self, table: Table, where: str, values: Sequence[tuple[object, ...]]) -> None:
        """Deletes the rows that a condition names."""
        self._added[table.name] -= self._db.executemany(f"DELETE FROM {table.name} WHERE {where}", values).rowcount

    def _commit(self) -> None:
        """Commits, together with the number of rows that there are then."""
        added = [(more, table) for table, more in self._added.items() if more]
        self._db.executemany("UPDATE kept SET rows = rows + ? WHERE name = ?", added)
        self._db.commit()
        self._added.clear()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._held.look()
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._db.rollback()
            self._added.clear()
            raise FittestError(f"{self.path}: {error}; nothing that was answered before is lost") from None

    def _now(self) -> float:
        return time.monotonic() - self._opened


def _columns(
    key: str, sample: int, reply: Completion | Failure, session: int, at: float, stage: Stage | None
) -> tuple[object, ...]:
    if isinstance(reply, Failure):
        return (key, sample, None, None, None, None, reply.reason, session, at, None, None, None, stage)
    return (
        key, sample, reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, None, session, at,
        reply.cached_tokens, _real(reply.seconds), reply.reasoning, stage,
    )  # fmt: skip


def _real(number: float) -> float:
    # what a column of reals gives back: a float, and of the two zeros the positive one
    return float(number) + 0.0


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
