# SPDX-License-Identifier: Apache-2.0
"""The job table: one SQLite file that survives whatever happens to the processes around it.

Every change of a job's state and the event that tells of it are one transaction, so that a client which follows the
events sees each state that was ever stored. State changes are on disk before they are answered (synchronous=FULL);
progress, which the next second replaces, may be lost with the power.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.schemas import FINISHED, JobResult, JobState, JobView

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        rank INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        request TEXT NOT NULL,
        label TEXT,
        client TEXT,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        attempt INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        progress TEXT,
        error TEXT,
        note TEXT
    );
    CREATE INDEX jobs_by_state ON jobs (state, rank);
    CREATE INDEX jobs_by_time ON jobs (created, id);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        created REAL NOT NULL,
        type TEXT NOT NULL,
        job TEXT NOT NULL,
        data TEXT NOT NULL
    );
    CREATE TABLE phase_times (
        model TEXT NOT NULL,
        phase TEXT NOT NULL,
        seconds REAL NOT NULL,
        total INTEGER NOT NULL,
        PRIMARY KEY (model, phase)
    );
    """,
)
"""One script per version of the schema; ``PRAGMA user_version`` says how many a file has been through."""

EVENTS_KEPT = 20_000
_EVENT_ID_GAP = 1_000_000
"""Ids skipped at every start: progress events lost with the power must not have their ids given out again."""


class StoreError(RuntimeError):
    """The database cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Event:
    id: int
    type: str
    job: str
    data: str  # JSON


@dataclass(frozen=True)
class Job:
    """One row. ``request`` is the accepted GenerationRequest with its model filled in."""

    id: str
    state: JobState
    request: dict[str, Any]
    attempt: int
    crashes: int


class Store:
    """Used from one thread, the event loop's: its calls take well under a millisecond, a commit one fsync."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(
                f"{path} cannot be read as a job table ({error}): move it away to start an empty one, "
                "or restore it from a backup"
            ) from error
        self._db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'events'", (_EVENT_ID_GAP,))
        self._since_trim = 0

    def _migrate(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            self._db.close()
            raise StoreError(
                f"{path} has schema version {version}, written by a newer server; this one knows "
                f"{len(MIGRATIONS)}: update it, or give another --home"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # jobs

    def add(self, job: str, fingerprint: str, request: dict[str, Any], label: str | None, client: str | None) -> None:
        with self._transaction():
            last = self._db.execute("SELECT max(rank) FROM jobs WHERE state = 'queued'").fetchone()[0] or 0
            self._db.execute(
                "INSERT INTO jobs (id, state, rank, fingerprint, request, label, client, created) "
                "VALUES (?, 'queued', ?, ?, ?, ?, ?, ?)",
                (job, last + 1, fingerprint, json.dumps(request), label, client, time.time()),
            )
            self._announce(job)

    def fingerprint(self, job: str) -> str | None:
        row = self._db.execute("SELECT fingerprint FROM jobs WHERE id = ?", (job,)).fetchone()
        return row and row["fingerprint"]

    def get(self, job: str) -> Job | None:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        return row and _job(row)

    def take_next(self) -> Job | None:
        """Give the first queued job to a worker."""
        row = self._db.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY rank, created LIMIT 1").fetchone()
        if row is None:
            return None
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = 'running', attempt = attempt + 1, started = coalesce(started, ?), "
                "progress = NULL WHERE id = ?",
                (time.time(), row["id"]),
            )
            self._announce(row["id"])
        return self.get(row["id"])

    def unfinished(self) -> list[Job]:
        """Jobs that a worker had when the last server ended."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state IN ('running', 'cancelling') ORDER BY rank")
        return [_job(row) for row in rows]

    def count(self, *states: JobState) -> int:
        marks = ", ".join("?" * len(states))
        return self._db.execute(f"SELECT count(*) FROM jobs WHERE state IN ({marks})", states).fetchone()[0]

    def set_state(
        self,
        job: str,
        state: JobState,
        *,
        error: dict[str, Any] | None = None,
        note: str | None = None,
        crashed: bool = False,
        progress: dict[str, Any] | None = None,
    ) -> None:
        """Move a job to ``state``. A note or an error replaces the one before; ``crashed`` counts one lost worker."""
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = :state, error = :error, note = coalesce(:note, note), "
                "crashes = crashes + :crashed, finished = :finished, "
                "progress = CASE WHEN :state = 'queued' THEN NULL ELSE coalesce(:progress, progress) END "
                "WHERE id = :id",
                {
                    "id": job,
                    "state": str(state),
                    "note": note,
                    "crashed": int(crashed),
                    "error": json.dumps(error) if error else None,
                    "progress": json.dumps(progress) if progress else None,
                    "finished": time.time() if state in FINISHED else None,
                },
            )
            self._announce(job)

    def set_progress(self, job: str, progress: dict[str, Any]) -> None:
        text = json.dumps(progress)
        with self._transaction(durable=False):
            self._db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (text, job))
            self._insert_event("progress", job, json.dumps({"id": job, "progress": progress}))

    def move(self, job: str, position: int) -> bool:
        """Put a queued job at ``position`` among the queued ones. False: it is not queued any more."""
        with self._transaction():
            ids = self._queue()
            if job not in ids:
                return False
            ids.remove(job)
            ids.insert(position, job)
            self._db.executemany("UPDATE jobs SET rank = ? WHERE id = ?", [(n, i) for n, i in enumerate(ids, 1)])
            self._announce(job)
        return True

    def _queue(self) -> list[str]:
        rows = self._db.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY rank, created")
        return [row["id"] for row in rows]

    # what clients see

    def view(self, job: str) -> JobView | None:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            return None
        position = None
        if row["state"] == "queued":
            position = self._db.execute(
                "SELECT count(*) FROM jobs WHERE state = 'queued' AND (rank, created) < (?, ?)",
                (row["rank"], row["created"]),
            ).fetchone()[0]
        return _view(row, position)

    def views(self, states: list[JobState], limit: int, before: tuple[float, str] | None) -> list[JobView]:
        """The newest jobs first, at most ``limit``; ``before`` is (created, id) of the last one already seen."""
        query = "SELECT * FROM jobs WHERE true"
        values: list[Any] = []
        if states:
            query += f" AND state IN ({', '.join('?' * len(states))})"
            values += [str(state) for state in states]
        if before:
            query += " AND (created, id) < (?, ?)"
            values += before
        rows = self._db.execute(f"{query} ORDER BY created DESC, id DESC LIMIT ?", (*values, limit)).fetchall()
        positions = {}
        if any(row["state"] == "queued" for row in rows):
            positions = {job: place for place, job in enumerate(self._queue())}
        return [_view(row, positions.get(row["id"])) for row in rows]

    # events

    def last_event(self) -> int:
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return row["seq"] if row else 0

    def first_event(self) -> int | None:
        return self._db.execute("SELECT min(id) FROM events").fetchone()[0]

    def events_after(self, event: int, limit: int) -> list[Event]:
        rows = self._db.execute(
            "SELECT id, type, job, data FROM events WHERE id > ? ORDER BY id LIMIT ?", (event, limit)
        )
        return [Event(*row) for row in rows]

    def _announce(self, job: str) -> None:
        view = self.view(job)
        assert view is not None
        self._insert_event("job", job, view.model_dump_json())

    def _insert_event(self, kind: str, job: str, data: str) -> None:
        cursor = self._db.execute(
            "INSERT INTO events (created, type, job, data) VALUES (?, ?, ?, ?)", (time.time(), kind, job, data)
        )
        self._since_trim += 1
        if self._since_trim >= 500:
            self._since_trim = 0
            self._db.execute(
                "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (EVENTS_KEPT,),
            )
        assert cursor.lastrowid is not None

    # how long phases took

    def phase_times(self, model: str) -> dict[str, tuple[float, int]]:
        """Of the last finished job of a model: phase -> (seconds, steps)."""
        rows = self._db.execute("SELECT phase, seconds, total FROM phase_times WHERE model = ?", (model,))
        return {row["phase"]: (row["seconds"], row["total"]) for row in rows}

    def remember_phase_times(self, model: str, times: dict[str, tuple[float, int]]) -> None:
        with self._transaction(durable=False):
            self._db.executemany(
                "INSERT OR REPLACE INTO phase_times (model, phase, seconds, total) VALUES (?, ?, ?, ?)",
                [(model, phase, seconds, total) for phase, (seconds, total) in times.items()],
            )


def _job(row: sqlite3.Row) -> Job:
    return Job(row["id"], JobState(row["state"]), json.loads(row["request"]), row["attempt"], row["crashes"])


def _view(row: sqlite3.Row, position: int | None) -> JobView:
    base = f"/v1/jobs/{row['id']}"
    return JobView(
        id=row["id"],
        state=JobState(row["state"]),
        request=json.loads(row["request"]),
        label=row["label"],
        client=row["client"],
        created_at=row["created"],
        started_at=row["started"],
        finished_at=row["finished"],
        queue_position=position,
        attempt=row["attempt"],
        note=row["note"],
        progress=json.loads(row["progress"]) if row["progress"] else None,
        error=json.loads(row["error"]) if row["error"] else None,
        result=JobResult(video=f"{base}/video.mp4", metadata=f"{base}/metadata.json", preview=f"{base}/preview.jpg")
        if row["state"] == "done"
        else None,
    )
