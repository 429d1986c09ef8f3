# SPDX-License-Identifier: Apache-2.0
"""The tables of the job store, one script per version. ``PRAGMA user_version`` says how many a file has been through.

Never change a script that was released: add one.
"""

from __future__ import annotations

_FIRST = """
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
"""

_SHARES = """
    ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';    -- the client, '' where none was named
    ALTER TABLE jobs ADD COLUMN model TEXT NOT NULL DEFAULT '';    -- as in the request
    ALTER TABLE jobs ADD COLUMN clip TEXT NOT NULL DEFAULT '';     -- as in the request
    ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN rung INTEGER NOT NULL DEFAULT 0;   -- how far down the ladder of memory modes
    ALTER TABLE jobs ADD COLUMN passed REAL NOT NULL DEFAULT 0;    -- seconds of its owner's jobs that overtook it
    ALTER TABLE jobs ADD COLUMN charged REAL NOT NULL DEFAULT 0;   -- seconds its owner was charged for the attempt
    ALTER TABLE jobs ADD COLUMN attempts TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE jobs ADD COLUMN bytes INTEGER;                     -- of the result
    ALTER TABLE jobs ADD COLUMN removed REAL;                      -- when the result was cleaned up
    UPDATE jobs SET owner = coalesce(client, ''), model = coalesce(json_extract(request, '$.model'), ''),
        clip = coalesce(json_extract(request, '$.clip'), '');
    DROP INDEX jobs_by_state;
    CREATE INDEX jobs_by_state ON jobs (state, created, id);
    CREATE INDEX jobs_queue ON jobs (owner, priority DESC, rank, created) WHERE state = 'queued';
    CREATE INDEX jobs_queue_of_model ON jobs (owner, model, priority DESC, rank, created) WHERE state = 'queued';
    CREATE INDEX jobs_active ON jobs (owner, rank) WHERE state IN ('queued', 'running', 'cancelling');
    CREATE INDEX jobs_kept ON jobs (finished) WHERE bytes IS NOT NULL;
    CREATE INDEX jobs_of_clip ON jobs (clip, state);
    CREATE TABLE clients (
        name TEXT PRIMARY KEY,
        used REAL NOT NULL DEFAULT 0,     -- place in the round: seconds, see scheduler.py
        seconds REAL NOT NULL DEFAULT 0,  -- worker seconds in all
        served REAL NOT NULL DEFAULT 0    -- when a job of theirs was last given to a worker
    ) WITHOUT ROWID;
    INSERT INTO clients (name) SELECT DISTINCT owner FROM jobs;
    CREATE TABLE tally (
        state TEXT NOT NULL,
        owner TEXT NOT NULL,
        n INTEGER NOT NULL,
        PRIMARY KEY (state, owner)
    ) WITHOUT ROWID;
    INSERT INTO tally SELECT state, owner, count(*) FROM jobs GROUP BY state, owner;
    CREATE TRIGGER tally_add AFTER INSERT ON jobs BEGIN
        INSERT INTO tally VALUES (new.state, new.owner, 1) ON CONFLICT DO UPDATE SET n = n + 1;
    END;
    CREATE TRIGGER tally_move AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
        UPDATE tally SET n = n - 1 WHERE state = old.state AND owner = old.owner;
        INSERT INTO tally VALUES (new.state, new.owner, 1) ON CONFLICT DO UPDATE SET n = n + 1;
    END;
    CREATE TRIGGER tally_remove AFTER DELETE ON jobs BEGIN
        UPDATE tally SET n = n - 1 WHERE state = old.state AND owner = old.owner;
    END;
"""

_DELETED = """
    CREATE TABLE deleted (     -- ids of jobs that people have removed: a client that repeats one must not start it anew
        id TEXT PRIMARY KEY,
        at REAL NOT NULL
    ) WITHOUT ROWID;
"""

MIGRATIONS = (_FIRST, _SHARES, _DELETED)
