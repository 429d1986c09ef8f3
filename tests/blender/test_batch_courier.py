# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch's way to the server and back: failures there, restarts, stops, and its state on disk. Needs no Blender."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server (pip install 'hvg3d[server]')")
pytest.importorskip("av", reason="needs PyAV (pip install 'hvg3d[network]')")

from blender_addon.batch.job import Batch
from blender_addon.batch.plan import Plan, Shot, Unit
from blender_addon.batch.state import Busy, State
from blender_addon.client.http import Address
from hvg3d_core.conditions import clip_from_bytes
from tests.server.serverkit import RunningServer, tiny_clip


@pytest.fixture
def server(tmp_path):
    with RunningServer(tmp_path / "home", step_seconds=0.06) as running:
        yield running


def start(server: RunningServer, out: Path, prompts=("a hand",), seeds=(1, 2), clip: bytes | None = None, **options):
    """A batch with one clip and a shot for each prompt and seed, all of them given to it."""
    plan = Plan(in_flight=options.pop("in_flight", 8), retries=options.pop("retries", 1))
    batch = Batch(out, lambda: Address(home=str(server.home)), plan, **options)
    unit = Unit("shot.clip.safetensors")
    batch.add(Shot(unit, seed, (("prompt", prompt),)) for prompt in prompts for seed in seeds)
    data = clip or tiny_clip()
    if batch.needs_export(unit, "stamp"):
        batch.exported_file(unit, clip_from_bytes(data), data, {"model": None}, "stamp")
    batch.no_more()
    return batch


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def states(batch: Batch) -> list[str]:
    return [row.state for row in batch.rows.values()]


def jobs(server: RunningServer) -> list[dict]:
    return server.get("/v1/jobs?limit=200")["jobs"]


@pytest.fixture
def strict_server(tmp_path):
    """One that gives up a job with the first worker that dies over it."""
    with RunningServer(tmp_path / "home", "--max-crashes", "0", step_seconds=0.05) as running:
        yield running


def test_a_shot_that_fails_does_not_stop_the_others_and_is_explained(strict_server, tmp_path):
    """A bug is not tried again; where a worker dies, the batch tries once more."""
    server = strict_server
    batch = start(server, tmp_path / "out", ("a hand", "bug", "crash"), seeds=(1,))
    batch.close(60)
    assert states(batch) == ["done", "failed", "failed"]
    bug, crash = list(batch.rows.values())[1:]
    assert "flux capacitor" in bug.message
    assert crash.message and crash.remedy
    assert sorted(job["request"]["prompt"] for job in jobs(server)) == ["a hand", "bug", "crash", "crash"]
    again = start(server, tmp_path / "out", ("a hand", "bug", "crash"), seeds=(1,))
    again.close(60)
    assert again.totals().kept == 3
    assert len(jobs(server)) == 4
    retried = start(server, tmp_path / "out", ("a hand", "bug", "crash"), seeds=(1,), retry_failed=True, retries=0)
    retried.close(60)
    assert states(retried) == ["done", "failed", "failed"]
    assert len(jobs(server)) == 6  # both failed ones once more


def test_several_jobs_are_on_the_server_while_one_runs_and_no_more_than_allowed(server, tmp_path):
    batch = start(server, tmp_path / "out", seeds=range(6), in_flight=3)
    most = 0
    while batch.running:
        open_jobs = [job for job in jobs(server) if job["state"] in ("queued", "running")]
        most = max(most, len(open_jobs))
        assert len(open_jobs) <= 3
        time.sleep(0.03)
    batch.close()
    assert states(batch) == ["done"] * 6
    assert most == 3


def test_a_server_that_is_killed_and_comes_back_is_waited_for(server, tmp_path):
    batch = start(server, tmp_path / "out", seeds=range(4))
    until(lambda: "done" in states(batch))
    server.kill()
    until(lambda: "Waiting for the server" in batch.courier.notice)
    server.start()
    batch.close(60)
    assert states(batch) == ["done"] * 4
    assert batch.courier.notice == ""
    assert len(jobs(server)) == 4


def test_a_server_that_stays_away_ends_the_batch_which_can_be_gone_on_with(server, tmp_path):
    batch = start(server, tmp_path / "out", seeds=range(3), patience=1.0)
    until(lambda: "done" in states(batch))
    server.kill()
    page = batch.close(30)
    assert "not running" in batch.courier.problem[0]
    assert batch.courier.problem[0] in page.read_text("utf-8").replace("&#x27;", "'")
    assert json.loads(page.with_name("report.json").read_text("utf-8"))["left"] == 3 - states(batch).count("done")
    server.start()
    again = start(server, tmp_path / "out", seeds=range(3))
    again.close(60)
    assert states(again) == ["done"] * 3
    assert len(jobs(server)) == 3


def test_stop_takes_the_jobs_back_and_the_next_start_makes_them(server, tmp_path):
    batch = start(server, tmp_path / "out", seeds=range(5))
    until(lambda: "done" in states(batch))
    batch.stop(cancel=True)
    batch.close(30)
    assert not [job for job in jobs(server) if job["state"] == "queued"]
    done = states(batch).count("done")
    assert 1 <= done < 5
    again = start(server, tmp_path / "out", seeds=range(5))
    again.close(60)
    assert states(again) == ["done"] * 5
    assert again.totals().kept == done


def test_what_a_shot_is_made_of_decides_what_is_done_anew(server, tmp_path):
    """Another clip: all of it. Another seed: only that. A video that was deleted: fetched, not made."""
    start(server, tmp_path / "out").close(60)
    start(server, tmp_path / "out", seeds=(1, 2, 3)).close(60)
    assert len(jobs(server)) == 3
    video = next((tmp_path / "out" / "videos").glob("*.mp4"))
    video.unlink()
    start(server, tmp_path / "out", seeds=(1, 2, 3)).close(60)
    assert video.is_file()
    assert len(jobs(server)) == 3
    (tmp_path / "out" / "clips").rename(tmp_path / "gone")
    changed = start(server, tmp_path / "out", clip=tiny_clip(seed=5))
    changed.close(60)
    assert changed.totals().kept == 0
    assert len(jobs(server)) == 5


def test_a_result_that_cannot_be_written_ends_the_batch_with_a_reason(server, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "videos").write_text("a file where the folder should be")
    batch = start(server, out)
    batch.close(60)
    assert "cannot be written" in batch.courier.problem[0]
    assert "failed" not in states(batch)
    (out / "videos").unlink()
    again = start(server, out)
    again.close(60)
    assert states(again) == ["done"] * 2
    assert len(jobs(server)) == 2


def test_two_batches_do_not_share_a_folder(tmp_path):
    state = State(tmp_path)
    code = (
        "import sys; from pathlib import Path; from blender_addon.batch.state import Busy, State\n"
        "try: State(Path(sys.argv[1]))\nexcept Busy as error: print(error)"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert "another batch works in" in told.stdout, told.stderr
    with pytest.raises(Busy):
        State(tmp_path)
    state.close()
    State(tmp_path).close()


def test_the_state_survives_a_line_cut_off_anywhere(tmp_path):
    """Cut after every byte of its last line, the file gives all records before it, and the last one whole or not."""
    state = State(tmp_path)
    state.put("shot", "a", {"state": "sent", "label": "ä"})
    state.put("shot", "a", {"state": "done", "label": "ä"})
    state.put("shot", "b", {"state": "sent"})
    state.close()
    whole = (tmp_path / "batch.jsonl").read_bytes()
    assert whole.count(b"\n") == 3
    last = len(whole) - len(whole.rstrip(b"\n").rpartition(b"\n")[2]) - 1
    for cut in range(last, len(whole) + 1):
        (tmp_path / "batch.jsonl").write_bytes(whole[:cut])
        state = State(tmp_path)
        assert state.get("shot", "a") == {"kind": "shot", "id": "a", "state": "done", "label": "ä"}
        assert (state.get("shot", "b") is not None) == (cut >= len(whole) - 1)
        state.close()
    assert (tmp_path / "batch.jsonl").read_bytes().count(b"\n") == 2  # one line for each record
    assert os.listdir(tmp_path).count("batch.jsonl") == 1
