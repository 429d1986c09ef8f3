# SPDX-License-Identifier: Apache-2.0
"""The SQLite file of the job table, its transactions and its events.

State changes are on disk before they are answered (synchronous=FULL); progress, which the next second replaces, may be
lost with the power.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.tables import MIGRATIONS

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


class Journal:
    """Used from one thread, the event loop's: its calls take well under a millisecond, a commit one fsync."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        name = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        self._db = sqlite3.connect(name, uri=True, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._since_trim = 0
        try:
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
            self._migrate(path, read_only)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(
                f"{path} cannot be read as a job table ({error}): move it away to start an empty one, "
                "or restore it from a backup"
            ) from error
        if not read_only:
            self._db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'events'", (_EVENT_ID_GAP,))

    def _migrate(self, path: Path, read_only: bool) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            self._db.close()
            raise StoreError(
                f"{path} has schema version {version}, written by a newer server; this one knows "
                f"{len(MIGRATIONS)}: update it, or give another --home"
            )
        if read_only and version < len(MIGRATIONS):
            self._db.close()
            raise StoreError(f"{path} is of an older version: start the server with it once")
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
