# SPDX-License-Identifier: Apache-2.0
"""Making room: what goes, what stays, and that a dry run tells and does nothing."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from pathlib import Path

from server.cleanup import Item, choose
from server.files import Home
from server.store import Store

from .serverkit import RunningServer, sha256, tiny_clip
from .test_survival import run_server

DAY = 86400.0


def test_by_age_and_by_size() -> None:
    now = 100 * DAY
    items = [Item("result", str(age), now - age * DAY, 100) for age in (50, 40, 30, 20, 10)]
    names = [item.name for item in choose(items, now, 25.0, None)]
    assert names == ["50", "40", "30"]
    assert [item.name for item in choose(items, now, None, 250)] == ["50", "40", "30"]
    assert [item.name for item in choose(items, now, 45.0, 450)] == ["50"]
    assert [item.name for item in choose(items, now, 45.0, 350)] == ["50", "40"]
    assert choose(items, now, None, 500) == []
    assert len(choose(items, now, None, 0)) == 5


def make_old(home: Path, job: str, clip: str, days: float) -> None:
    """As if the job had been finished, and its clip been asked for, so long ago."""
    database = sqlite3.connect(home / "jobs.sqlite3")
    database.execute("UPDATE jobs SET finished = finished - ? WHERE id = ?", (days * DAY, job))
    database.commit()
    database.close()
    then = time.time() - days * DAY
    os.utime(home / "clips" / f"{clip}.safetensors", (then, then))


def test_old_results_and_clips_go_and_the_history_stays(tmp_path: Path) -> None:
    """Dry run first, beside the running server; then a server with the same settings does just that."""
    home = tmp_path / "home"
    old_clip, new_clip = tiny_clip(seed=1), tiny_clip(seed=2)
    with RunningServer(home, step_seconds=0.01) as server:
        old = server.submit(server.upload(old_clip), seed=1)
        new = server.submit(server.upload(new_clip), seed=2)
        size = server.wait(old)["result_bytes"]
        assert size == sum(path.stat().st_size for path in (home / "jobs" / old / "result").iterdir())
        server.wait(new)
        make_old(home, old, sha256(old_clip), days=10)
        told = run_server("--home", str(home), "--keep-days", "9", "--dry-run")
        assert told.returncode == 0, told.stderr
        assert old in told.stdout and sha256(old_clip) in told.stdout
        assert new not in told.stdout and sha256(new_clip) not in told.stdout
        assert "2 results and clips" in told.stdout
        assert server.client.head(f"/v1/clips/{sha256(old_clip)}").status_code == 200
        asked = run_server("--home", str(home), "--keep-days", "9", "--dry-run")
        assert sha256(old_clip) not in asked.stdout, "somebody means to use it"
        make_old(home, old, sha256(old_clip), days=10)
        everything = run_server("--home", str(home), "--keep-gib", "0", "--dry-run")
        assert new in everything.stdout and sha256(new_clip) not in everything.stdout, "a clip of the last hour stays"
        assert server.client.get(f"/v1/jobs/{old}/video.mp4").status_code == 200
        server.stop()
    with RunningServer(home, "--keep-days", "9") as server:
        end = time.monotonic() + 10
        while server.job(old)["removed_at"] is None and time.monotonic() < end:
            time.sleep(0.05)
        view = server.job(old)
        assert (view["state"], view["result"], view["result_bytes"]) == ("done", None, None)
        gone = server.client.get(f"/v1/jobs/{old}/video.mp4")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "result_gone")
        assert not (home / "jobs" / old).exists()
        assert server.client.head(f"/v1/clips/{sha256(old_clip)}").status_code == 404
        assert server.client.get(f"/v1/jobs/{new}/video.mp4").status_code == 200
        assert server.client.head(f"/v1/clips/{sha256(new_clip)}").status_code == 200


def test_a_clip_that_a_job_waits_for_is_never_removed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    store = Store(home.database)
    wanted, unused = ("1" * 64, "2" * 64)
    for clip in (wanted, unused):
        home.clip(clip).write_bytes(b"x")
        os.utime(home.clip(clip), (1e9, 1e9))
    store.add(str(uuid.uuid4()), "", {"clip": wanted, "model": "nano"}, None, None)
    store.close()
    told = run_server("--home", str(tmp_path / "home"), "--keep-gib", "0", "--dry-run")
    assert unused in told.stdout and wanted not in told.stdout


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    alone = run_server("--home", str(tmp_path), "--dry-run")
    assert alone.returncode == 2 and "--keep-days or --keep-gib" in alone.stderr
    negative = run_server("--home", str(tmp_path), "--keep-days", "-1")
    assert "--keep-days -1.0: give 0 or more" in negative.stderr
    empty = run_server("--home", str(tmp_path / "none"), "--keep-days", "1", "--dry-run")
    assert empty.returncode == 2 and "holds no job table" in empty.stderr
