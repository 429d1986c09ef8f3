# SPDX-License-Identifier: Apache-2.0
"""The job table: one SQLite file that survives whatever happens to the processes around it.

Every change of a job's state and the event that tells of it are one transaction, so that a client which follows the
events sees each state that was ever stored.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.journal import EVENTS_KEPT, Event, Journal, StoreError
from server.schemas import FINISHED, JobState, JobView
from server.views import Place, job_view

__all__ = ["EVENTS_KEPT", "NEVER_PASSED", "Event", "Job", "Share", "Store", "StoreError", "Waiting"]

ATTEMPTS_KEPT = 10
_QUEUE_ORDER = "priority DESC, rank, created"
NEVER_PASSED = 1e12
"""``passed`` of a job that a person has put where it is."""


@dataclass(frozen=True)
class Job:
    """One row. ``request`` is the accepted GenerationRequest with its model filled in."""

    id: str
    state: JobState
    request: dict[str, Any]
    attempt: int
    crashes: int
    rung: int
    started: float | None


@dataclass(frozen=True)
class Share:
    """A client with queued jobs. ``used``: worker seconds, see :mod:`server.scheduler`; ``served``: a time."""

    owner: str
    used: float
    served: float
    queued: int


@dataclass(frozen=True)
class Waiting:
    """The first queued job of a client."""

    id: str
    owner: str
    model: str
    priority: int
    passed: float
    steps: int | None


class Store(Journal):
    """The job table; see :class:`server.journal.Journal` for its file."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        self.typical_seconds = 60.0
        """What a job has cost of late; only the places that clients are shown depend on it."""

    # jobs

    def add(
        self,
        job: str,
        fingerprint: str,
        request: dict[str, Any],
        label: str | None,
        client: str | None,
        priority: int = 0,
    ) -> None:
        owner = client or ""
        with self._transaction():
            self._level(owner)
            last = self._db.execute(
                "SELECT max(rank) FROM jobs WHERE owner = ? AND state IN ('queued', 'running', 'cancelling')", (owner,)
            ).fetchone()[0]
            self._db.execute(
                "INSERT INTO jobs (id, state, rank, fingerprint, request, label, client, created, "
                "owner, model, clip, priority) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job, (last or 0) + 1, fingerprint, json.dumps(request), label, client, time.time()),
                    *(owner, request["model"], request["clip"], priority),
                ),
            )
            self._announce(job)

    def _level(self, owner: str) -> None:
        """Whoever comes (back) starts level with the one served least: idle time earns no credit, nor costs any."""
        # Charges of running attempts are estimates: a client may not be held to them before they are settled.
        active = (
            "SELECT min(c.used - coalesce(r.charged, 0)) FROM clients c LEFT JOIN (SELECT owner, sum(charged) "
            "AS charged FROM jobs WHERE state IN ('running', 'cancelling') GROUP BY owner) r ON r.owner = c.name "
            "WHERE c.name <> ? AND c.name IN (SELECT owner FROM tally WHERE state IN ({}) AND n > 0)"
        )
        floor = None
        for states in ("'queued'", "'running', 'cancelling'"):
            if floor is None:
                floor = self._db.execute(active.format(states), (owner,)).fetchone()[0]
        if floor is None and not self._owner_is_active(owner):
            floor = self._db.execute("SELECT max(used) FROM clients").fetchone()[0]
        self._db.execute(
            "INSERT INTO clients (name, used) VALUES (:owner, :floor) "
            "ON CONFLICT DO UPDATE SET used = max(used, :floor)",
            {"owner": owner, "floor": floor or 0.0},
        )

    def _owner_is_active(self, owner: str) -> bool:
        query = "SELECT 1 FROM tally WHERE owner = ? AND state IN ('queued', 'running', 'cancelling') AND n > 0"
        return self._db.execute(query, (owner,)).fetchone() is not None

    def fingerprint(self, job: str) -> str | None:
        row = self._db.execute("SELECT fingerprint FROM jobs WHERE id = ?", (job,)).fetchone()
        return row and row["fingerprint"]

    def get(self, job: str) -> Job | None:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        return row and _job(row)

    def unfinished(self) -> list[Job]:
        """Jobs that a worker had when the last server ended."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state IN ('running', 'cancelling') ORDER BY rank, created")
        return [_job(row) for row in rows]

    def count(self, *states: JobState) -> int:
        marks = ", ".join("?" * len(states))
        return self._db.execute(
            f"SELECT coalesce(sum(n), 0) FROM tally WHERE state IN ({marks})", [str(state) for state in states]
        ).fetchone()[0]

    def seconds_by_client(self) -> dict[str, float]:
        """Worker seconds that each client has had in all."""
        return {row["name"]: row["seconds"] for row in self._db.execute("SELECT name, seconds FROM clients")}

    # giving jobs to workers; who is next is the scheduler's business

    def waiting_clients(self) -> list[Share]:
        """Clients with queued jobs, the one whose turn it is first."""
        rows = self._db.execute(
            "SELECT name, used, served, n FROM tally JOIN clients ON name = owner "
            "WHERE state = 'queued' AND n > 0 ORDER BY used, served, name"
        )
        return [Share(*row) for row in rows]

    def first_waiting(self, owner: str, model: str | None = None) -> Waiting | None:
        """The first queued job of a client, or its first one of a model."""
        row = self._db.execute(
            "SELECT id, owner, model, priority, passed, json_extract(request, '$.num_inference_steps') AS steps "
            f"FROM jobs WHERE state = 'queued' AND owner = ? {'AND model = ?' if model is not None else ''} "
            f"ORDER BY {_QUEUE_ORDER} LIMIT 1",
            (owner,) if model is None else (owner, model),
        ).fetchone()
        return row and Waiting(*row)

    def take(self, job: Waiting, charge: float, worker: str, passed: str | None = None) -> Job:
        """Give a queued job to a worker. ``charge``: estimated seconds; ``passed``: id of the job that it overtakes."""
        now = time.time()
        row = self._db.execute("SELECT attempt, attempts FROM jobs WHERE id = ?", (job.id,)).fetchone()
        attempts = json.loads(row["attempts"])
        attempts.append(
            {"number": row["attempt"] + 1, "worker": worker, "memory": [], "started_at": now}
            | {"ended_at": None, "outcome": None, "reason": None}
        )
        with self._transaction(durable=False):  # lost with the power, the job is queued, and begins again anyway
            self._db.execute(
                "UPDATE jobs SET state = 'running', attempt = attempt + 1, started = coalesce(started, ?), "
                "progress = NULL, charged = ?, attempts = ? WHERE id = ?",
                (now, charge, json.dumps(attempts[-ATTEMPTS_KEPT:]), job.id),
            )
            self._db.execute("UPDATE clients SET used = used + ?, served = ? WHERE name = ?", (charge, now, job.owner))
            if passed is not None:
                self._db.execute("UPDATE jobs SET passed = passed + ? WHERE id = ?", (charge, passed))
            self._announce(job.id)
        taken = self.get(job.id)
        assert taken is not None
        return taken

    def set_memory(self, job: str, memory: Sequence[str]) -> None:
        """Note the memory modes of the attempt that begins."""
        with self._transaction(durable=False):
            self._db.execute(
                "UPDATE jobs SET attempts = json_set(attempts, '$[#-1].memory', json(?)) WHERE id = ?",
                (json.dumps(list(memory)), job),
            )

    def set_state(
        self,
        job: str,
        state: JobState,
        *,
        error: dict[str, Any] | None = None,
        note: str | None = None,
        crashed: bool = False,
        progress: dict[str, Any] | None = None,
        outcome: str | None = None,
        reason: str | None = None,
        seconds: float = 0.0,
        rung: int | None = None,
        result_bytes: int | None = None,
    ) -> None:
        """Move a job to ``state``. A note or an error replaces the one before; ``crashed`` counts one lost worker.

        ``outcome`` ends the running attempt, with its ``reason`` and the ``seconds`` that its client is charged.
        """
        with self._transaction():
            if outcome is not None:
                self._db.execute(
                    "UPDATE clients SET used = used + :seconds - (SELECT charged FROM jobs WHERE id = :id), "
                    "seconds = seconds + :seconds WHERE name = (SELECT owner FROM jobs WHERE id = :id)",
                    {"id": job, "seconds": seconds},
                )
                self._db.execute(
                    "UPDATE jobs SET charged = 0, attempts = json_set(attempts, '$[#-1].ended_at', ?, "
                    "'$[#-1].outcome', ?, '$[#-1].reason', ?) WHERE id = ? AND attempts <> '[]'",
                    (time.time(), outcome, reason, job),
                )
                if outcome == "done" and seconds > 0:
                    self.typical_seconds += 0.2 * (seconds - self.typical_seconds)
            self._db.execute(
                "UPDATE jobs SET state = :state, error = :error, note = coalesce(:note, note), "
                "crashes = crashes + :crashed, finished = :finished, rung = coalesce(:rung, rung), bytes = :bytes, "
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
                    "rung": rung,
                    "bytes": result_bytes,
                },
            )
            self._announce(job)

    def set_progress(self, job: str, progress: dict[str, Any]) -> None:
        text = json.dumps(progress)
        with self._transaction(durable=False):
            self._db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (text, job))
            self._insert_event("progress", job, json.dumps({"id": job, "progress": progress}))

    def move(self, job: str, position: int) -> bool:
        """Put a queued job at ``position`` among its client's queued ones. False: it is not queued any more.

        It takes on the priority that the place asks for, and no other job of the client will overtake it for the
        sake of a model that happens to be loaded.
        """
        with self._transaction():
            row = self._db.execute("SELECT owner, priority FROM jobs WHERE id = ? AND state = 'queued'", (job,))
            found = row.fetchone()
            if found is None:
                return False
            queue = [entry for entry in self._queue(found["owner"]) if entry["id"] != job]
            position = min(position, len(queue))
            priority = found["priority"]
            if position > 0:
                priority = min(priority, queue[position - 1]["priority"])
            if position < len(queue):
                priority = max(priority, queue[position]["priority"])
            ids = [entry["id"] for entry in queue]
            ids.insert(position, job)
            self._db.executemany("UPDATE jobs SET rank = ? WHERE id = ?", [(n, i) for n, i in enumerate(ids, 1)])
            self._db.execute("UPDATE jobs SET priority = ?, passed = ? WHERE id = ?", (priority, NEVER_PASSED, job))
            self._announce(job)
        return True

    def _queue(self, owner: str) -> list[sqlite3.Row]:
        return self._db.execute(
            f"SELECT id, priority FROM jobs WHERE state = 'queued' AND owner = ? ORDER BY {_QUEUE_ORDER}", (owner,)
        ).fetchall()

    def delete(self, job: str) -> bool:
        """Take a finished job out of the history. False: it is not finished, or not there. Its id stays taken."""
        with self._transaction():
            gone = self._db.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN (?, ?, ?)", (job, *(str(state) for state in FINISHED))
            )
            if gone.rowcount == 0:
                return False
            self._db.execute("INSERT INTO deleted (id, at) VALUES (?, ?)", (job, time.time()))
            self._insert_event("deleted", job, json.dumps({"id": job}))
        return True

    def was_deleted(self, job: str) -> bool:
        return self._db.execute("SELECT 1 FROM deleted WHERE id = ?", (job,)).fetchone() is not None

    # results and clips on disk, for the clean-up

    def kept_results(self) -> list[tuple[str, float, int]]:
        """(job, when it was finished, bytes of its result), the oldest first."""
        rows = self._db.execute("SELECT id, finished, bytes FROM jobs WHERE bytes IS NOT NULL ORDER BY finished")
        return [tuple(row) for row in rows]

    def forget_result(self, job: str) -> None:
        """Call before the result is removed. The job stays in the history, so that its id is not taken anew."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET bytes = NULL, removed = ? WHERE id = ?", (time.time(), job))
            self._announce(job)

    def clip_is_wanted(self, sha256: str) -> bool:
        """Whether a job that is not finished needs the clip."""
        states = ("queued", "running", "cancelling")
        query = "SELECT 1 FROM jobs WHERE clip = ? AND state IN (?, ?, ?) LIMIT 1"
        return self._db.execute(query, (sha256, *states)).fetchone() is not None

    # what clients see

    def view(self, job: str) -> JobView | None:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            return None
        position = None
        if row["state"] == "queued":
            ahead = self._db.execute(
                "SELECT (SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = :o AND priority > :p) + "
                "(SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = :o AND priority = :p "
                "AND (rank, created) < (:r, :c))",
                {"o": row["owner"], "p": row["priority"], "r": row["rank"], "c": row["created"]},
            ).fetchone()[0]
            position = Place(self.waiting_clients(), self.typical_seconds).of(row["owner"], ahead)
        return job_view(row, position)

    def views(self, states: list[JobState], limit: int, before: tuple[float, str] | None) -> list[JobView]:
        """The newest jobs first, at most ``limit``; ``before`` is (created, id) of the last one already seen."""
        older = "AND (created, id) < (?, ?)" if before else ""
        rows: list[sqlite3.Row] = []
        wanted: list[JobState | None] = [*dict.fromkeys(states)] or [None]
        for state in wanted:  # each by its own index
            rows += self._db.execute(
                f"SELECT * FROM jobs WHERE {'state = ?' if state else 'true'} {older} "
                "ORDER BY created DESC, id DESC LIMIT ?",
                (*([str(state)] if state else []), *(before or ()), limit),
            )
        rows.sort(key=lambda row: (row["created"], row["id"]), reverse=True)
        rows = rows[:limit]
        positions: dict[str, int] = {}
        place = Place(self.waiting_clients(), self.typical_seconds)
        for owner in {row["owner"] for row in rows if row["state"] == "queued"}:
            positions |= {entry["id"]: place.of(owner, ahead) for ahead, entry in enumerate(self._queue(owner))}
        return [job_view(row, positions.get(row["id"])) for row in rows]

    def _announce(self, job: str) -> None:
        view = self.view(job)
        assert view is not None
        self._insert_event("job", job, view.model_dump_json())

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
    state, request = JobState(row["state"]), json.loads(row["request"])
    return Job(row["id"], state, request, row["attempt"], row["crashes"], row["rung"], row["started"])
