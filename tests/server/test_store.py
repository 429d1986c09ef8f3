# SPDX-License-Identifier: Apache-2.0
"""The job table: old files, many jobs, and what it may not read through."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path

import pytest

from server.schemas import JobState
from server.store import Store, StoreError
from server.tables import MIGRATIONS

CLIP = "0" * 64


def fill(path: Path, count: int) -> None:
    """Past jobs of 20 clients, written past the store for speed, with its triggers."""
    database = sqlite3.connect(path)
    request = json.dumps({"clip": CLIP, "model": "nano"})
    rows = [
        (str(uuid.UUID(int=n)), ("done", "failed", "cancelled")[n % 3], n, request, f"c{n % 20}", 1e9 + n, CLIP)
        for n in range(count)
    ]
    columns = "id, state, rank, request, owner, created, clip, fingerprint"
    database.executemany(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, '')", rows)
    database.commit()
    database.close()


def test_a_table_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """Its jobs, their order and their clients are what they were."""
    path = tmp_path / "jobs.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1;")
    for n, state in enumerate(("done", "queued", "queued", "running")):
        row = (str(uuid.UUID(int=n)), state, n, json.dumps({"clip": CLIP, "model": "nano"}), "me" if n < 2 else None, n)
        columns = "id, state, rank, fingerprint, request, client, created"
        old.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, 'f', ?, ?, ?)", row)
    old.commit()
    old.close()
    store = Store(path)
    assert store.count(JobState.QUEUED) == 2
    assert store.count(JobState.RUNNING, JobState.DONE) == 2
    assert [share.owner for share in store.waiting_clients()] == ["", "me"]
    views = store.views([], 10, None)
    assert [view.id[-1] for view in views] == ["3", "2", "1", "0"]
    assert [view.client for view in views] == [None, None, "me", "me"]
    assert {view.queue_position for view in views} == {0, 1, None}
    assert [job.id[-1] for job in store.unfinished()] == ["3"]
    assert store.clip_is_wanted(CLIP)
    store.close()


def test_the_tally_is_always_what_a_count_finds(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3")
    fill(tmp_path / "jobs.sqlite3", 300)
    for n in range(40):
        store.add(str(uuid.uuid4()), "", {"clip": CLIP, "model": "nano"}, None, f"c{n % 3}")
    for n in range(25):
        share = store.waiting_clients()[0]
        waiting = store.first_waiting(share.owner)
        assert waiting is not None
        job = store.take(waiting, 1.0, "process 0")
        state = (JobState.DONE, JobState.QUEUED, JobState.FAILED, JobState.CANCELLING, JobState.RUNNING)[n % 5]
        store.set_state(job.id, state, outcome=str(state), seconds=1.0)
    database = sqlite3.connect(tmp_path / "jobs.sqlite3")
    counted = dict(database.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
    assert {state: store.count(JobState(state)) for state in counted} == counted
    owners = database.execute("SELECT owner, count(*) FROM jobs WHERE state = 'queued' GROUP BY owner")
    assert {share.owner: share.queued for share in store.waiting_clients()} == dict(owners)
    database.close()
    store.close()


def test_no_question_reads_through_the_past(tmp_path: Path) -> None:
    """SQLite's own plans for everything a server asks all the time: by an index, never a scan or a sort of all jobs."""
    store = Store(tmp_path / "jobs.sqlite3")
    fill(tmp_path / "jobs.sqlite3", 5000)
    for n in range(30):
        store.add(str(uuid.UUID(int=2**64 + n)), "", {"clip": CLIP, "model": "nano"}, None, f"c{n % 3}")
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    cursor = (1e9 + 2500, str(uuid.UUID(int=2500)))
    assert len(store.views([], 100, cursor)) == 100
    assert len(store.views([JobState.DONE, JobState.FAILED, JobState.QUEUED], 100, cursor)) == 100
    store.count(JobState.DONE)
    share = store.waiting_clients()[0]
    waiting = store.first_waiting(share.owner, "nano")
    assert waiting is not None
    store.take(waiting, 1.0, "process 0")
    store.add(str(uuid.uuid4()), "", {"clip": CLIP, "model": "nano"}, None, "new")
    store.unfinished()
    store.clip_is_wanted("1" * 64)
    store.view(str(uuid.UUID(int=77)))
    store._db.set_trace_callback(None)
    plans = {}
    for statement in asked:
        if statement.split()[0] in ("SELECT", "UPDATE") and "sqlite_sequence" not in statement:
            plans[statement] = [row["detail"] for row in store._db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert len(plans) > 10
    few = ("FROM tally", "state IN ('running', 'cancelling')")  # sorted after having been found by an index
    for statement, steps in plans.items():
        for step in steps:
            assert not step.startswith(("SCAN jobs", "SCAN j")), (statement, step)
            assert "TEMP B-TREE" not in step or any(part in statement for part in few), (statement, step)
    store.close()


def test_pages_over_several_states_are_in_order(tmp_path: Path) -> None:
    """Every past job once, newest first, whatever the pages and the states asked for."""
    store = Store(tmp_path / "jobs.sqlite3")
    fill(tmp_path / "jobs.sqlite3", 100)
    for states in ([], [JobState.DONE], [JobState.FAILED, JobState.DONE]):
        seen, cursor = [], None
        while page := store.views(states, 7, cursor):
            seen += page
            cursor = (page[-1].created_at, page[-1].id)
        expected = [n for n in range(99, -1, -1) if not states or ("done", "failed", "cancelled")[n % 3] in states]
        assert [uuid.UUID(view.id).int for view in seen] == expected
    store.close()


def test_reading_beside_a_server_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = Store(path)
    store.add(str(uuid.uuid4()), "", {"clip": CLIP, "model": "nano"}, None, None)
    before = store.last_event()
    reader = Store(path, read_only=True)
    assert reader.last_event() == before
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.set_state("x", JobState.DONE)
    reader.close()
    store.close()
    old = sqlite3.connect(tmp_path / "old.sqlite3")
    old.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1;")
    old.close()
    with pytest.raises(StoreError, match="older version"):
        Store(tmp_path / "old.sqlite3", read_only=True)
