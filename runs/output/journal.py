"""The journal of a run: an SQLite file that holds every reply, measurement and embedding the moment it is known."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from fittest.evo.errors import FittestError
from fittest.evo.records import STAGES, Completion, Failure, Milestone, Missing, Request, Stage
from fittest.evo.spending import MOST_TOKENS, Ledger, Spending, tokens_in
from fittest.runs.output.journal_schema import SCHEMA, create_tables, show_as_current
from fittest.runs.output.salvage import salvaged

_KEEP_REPLY = """
INSERT OR IGNORE INTO replies (key, sample, session, at, text, finish_reason, prompt_tokens, completion_tokens,
    cached_tokens, seconds, reasoning, failure, stage) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FIND_REPLY = """
SELECT text, finish_reason, prompt_tokens, completion_tokens, failure, cached_tokens, seconds, reasoning FROM replies
WHERE key = ? AND sample = ?
"""

_SUBJECTS_AT_ONCE = 10_000
"""Most subjects that one statement names; SQLite takes 32,766 values as it is built by default."""


class SqliteJournal:
    """The journal protocol over SQLite in WAL mode; what `exchange` has returned from survives a killed process.

    Measurements and embeddings ride along with the next exchange: they follow from replies that are kept, and a commit
    for each would cost more than the feeder.

    Each opening is a session. Times are seconds since the session began, so that idle slots can be computed over all
    sessions; they stand here alone, never in a table of results.

    Args:
        path: the file, which is made when it is not there; ":memory:" keeps nothing.
        read_only: whether things are only looked up; the file must be there, and is left as it is.

    Raises:
        FittestError: the file is corrupted (what could be read is saved beside it), of a later schema, or unwritable.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._opened = time.monotonic()
        self._stages: dict[tuple[str, int], Stage] = {}
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
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise FittestError(
                f"{self.path}: written by a later fittest (journal schema {schema}, this one reads up to {SCHEMA});"
                " update fittest"
            )
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.splitlines()[-1])
        if self._read_only:
            show_as_current(self._db)
            return
        create_tables(self._db)
        (last,) = self._db.execute("SELECT max(session) FROM events").fetchone()
        self.session = (last or 0) + 1
        self.event("opened")

    def close(self) -> None:
        """Commits and closes; the journal cannot be used after it. A disk that is full does not keep it open."""
        with suppress(FittestError):
            if not self._read_only:
                self.event("closed")
        self._db.close()

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """Returns what was answered to this request, in this session or an earlier one."""
        row = self._db.execute(_FIND_REPLY, (key, sample)).fetchone()
        if row is None:
            return None
        text, finish_reason, prompt_tokens, completion_tokens, failure, cached_tokens, seconds, reasoning = row
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
            (key, sample, self.session, at, *_columns(reply), self._stages.pop((key, sample), None))
            for key, sample, reply in replies
        ]
        self._stages |= {(key, request.sample): request.stage for key, request in requests}
        sent = [(key, request.sample, request.stage, self.session, at) for key, request in requests]
        with self._writing():
            self._db.executemany(_KEEP_REPLY, answered)
            self._db.executemany("INSERT INTO issued VALUES (?, ?, ?, ?, ?)", sent)
            self._db.commit()

    def forget(self, failures: Sequence[tuple[str, int]]) -> None:
        """Forgets failures, by key and sample, which are asked for again; a completion stays."""
        with self._writing():
            self._db.executemany("DELETE FROM replies WHERE key = ? AND sample = ? AND failure IS NOT NULL", failures)
            self._db.commit()

    def spent(self) -> Ledger:
        """Returns what all replies of all sessions have cost; one whose request is not logged counts as a rollout."""
        found = Ledger()
        # counts that no request has are none, as in `reply`
        sums = ", ".join(
            f"sum(CASE WHEN {name}_tokens BETWEEN 0 AND {MOST_TOKENS} THEN {name}_tokens END)"
            for name in ("prompt", "completion", "cached")
        )
        for stage, requests, prompt, completion, cached, seconds in self._db.execute(
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
            rows = self._db.execute(
                f"SELECT subject, value, missing FROM measurements WHERE fingerprint = ? AND subject IN ({marks})",
                (fingerprint, *some),
            )
            found |= {subject: Missing(missing) if value is None else value for subject, value, missing in rows}
        return found

    def forget_missing(self, fingerprint: str, subjects: Sequence[str]) -> None:
        """Forgets that the measurements of these subjects are missing; numbers stay."""
        with self._writing():
            self._db.executemany(
                "DELETE FROM measurements WHERE fingerprint = ? AND subject = ? AND missing IS NOT NULL",
                [(fingerprint, subject) for subject in subjects],
            )
            self._db.commit()

    def record_measurements(self, fingerprint: str, measurements: Mapping[str, float | Missing]) -> None:
        """Keeps measurements by subject, of which the first of a subject stands."""
        rows = [
            (fingerprint, subject, None, value.reason)
            if isinstance(value, Missing)
            else (fingerprint, subject, value, None)
            for subject, value in measurements.items()
        ]
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?)", rows)

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """Returns the embedding known for this text, if any."""
        row = self._db.execute(
            "SELECT vector FROM embeddings WHERE fingerprint = ? AND text = ?", (fingerprint, _text_hash(text))
        ).fetchone()
        return None if row is None else np.frombuffer(row[0], dtype="<f4")

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keeps an embedding."""
        row = (fingerprint, _text_hash(text), vector.astype("<f4").tobytes())
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)", row)

    def milestones(self) -> list[Milestone]:
        """Returns the order of events of a steady-state run; a generational run has none."""
        return [Milestone(*row) for row in self._db.execute("SELECT event, number FROM milestones ORDER BY position")]

    def record_milestone(self, position: int, milestone: Milestone) -> None:
        """Keeps one milestone of that order."""
        with self._writing():
            self._db.execute("INSERT INTO milestones VALUES (?, ?, ?)", (position, *milestone))

    def event(self, event: str, detail: str | None = None) -> None:
        """Logs what happened to the run: it was opened or closed, reached a cap, or was interrupted."""
        with self._writing():
            self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (self.session, self._now(), event, detail))
            self._db.commit()

    def meta(self, name: str) -> str | None:
        """Returns a fact about the run, such as the fingerprint of its model."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def record_meta(self, name: str, value: str) -> None:
        """Keeps a fact about the run."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
            self._db.commit()

    def seconds(self) -> float:
        """Returns the wall time of all sessions; one that was killed counts up to the last thing it wrote."""
        (total,) = self._db.execute(
            "SELECT sum(seconds) FROM (SELECT max(at) AS seconds FROM (SELECT session, at FROM events"
            " UNION ALL SELECT session, at FROM replies) GROUP BY session)"
        ).fetchone()
        return float(total or 0.0)

    def in_flight_changes(self, stages: Collection[Stage] = STAGES) -> Iterator[tuple[int, float, int]]:
        """Yields (session, seconds, +1 or −1) in order of time, for requests that were sent and for their replies.

        Args:
            stages: those whose requests count; what one engine does is told by the stages that it serves.
        """
        marks = ", ".join("?" * len(stages))
        return self._db.execute(
            f"SELECT session, at, 1 AS change FROM issued WHERE stage IN ({marks})"
            f" UNION ALL SELECT session, at, -1 FROM replies WHERE coalesce(stage, 'rollout') IN ({marks})"
            " ORDER BY session, at, change",
            (*stages, *stages),
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
        return (None, None, None, None, None, None, None, reply.reason)
    return (
        reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens,
        reply.seconds, reply.reasoning, None,
    )  # fmt: skip


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
