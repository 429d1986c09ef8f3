# SPDX-License-Identifier: Apache-2.0
"""Deleting a finished job, and the scene that lies beside every result."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path

import numpy as np

from hvg3d_core.video import read_video

from .serverkit import RunningServer


def test_a_deleted_job_is_gone_with_its_files(server: RunningServer, clip: str) -> None:
    job = server.submit(clip, seed=1)
    server.wait(job)
    since = server.get("/v1/jobs?limit=1")["last_event"]
    folder = server.home / "jobs" / job
    assert (folder / "result" / "video.mp4").is_file()
    assert server.client.delete(f"/v1/jobs/{job.upper()}").status_code == 204
    assert not folder.exists()
    assert server.client.get(f"/v1/jobs/{job}").status_code == 404
    assert server.client.get(f"/v1/jobs/{job}/video.mp4").status_code == 404
    assert job not in [view["id"] for view in server.get("/v1/jobs?limit=1000")["jobs"]]
    number, kind, data = next(server.events(f"?since={since}"))
    assert (kind, data) == ("deleted", {"id": job}) and number > since
    assert server.client.delete(f"/v1/jobs/{job}").status_code == 204, "twice is once"


def test_its_id_does_not_start_it_anew(server: RunningServer, clip: str) -> None:
    """A client that never got the answer to its POST may repeat it for ever: that must not undo a deletion."""
    body = {"id": str(uuid.uuid4()), "request": {"clip": clip, "seed": 2}}
    assert server.client.post("/v1/jobs", json=body).status_code == 201
    server.wait(body["id"])
    assert server.client.delete(f"/v1/jobs/{body['id']}").status_code == 204
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "job_deleted"


def test_only_a_finished_job_can_be_deleted(server: RunningServer, clip: str) -> None:
    first = server.submit(clip, num_inference_steps=400)
    waiting = server.submit(clip)
    server.wait(first, "running")
    for job, state in ((first, "running"), (waiting, "queued")):
        answer = server.client.delete(f"/v1/jobs/{job}")
        assert answer.status_code == 409, answer.text
        error = answer.json()["error"]
        assert error["code"] == "job_not_finished" and state in error["message"] and "cancel" in error["remedy"]
    for job in (waiting, first):
        server.client.post(f"/v1/jobs/{job}/cancel")
        assert server.wait(job)["state"] == "cancelled"
        assert server.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert server.client.delete(f"/v1/jobs/{uuid.uuid4()}").status_code == 404


def test_the_deletion_outlives_the_server(tmp_path: Path, clip_data: bytes) -> None:
    with RunningServer(tmp_path / "home") as server:
        digest = server.upload(clip_data)
        job = server.submit(digest)
        server.wait(job)
        server.client.delete(f"/v1/jobs/{job}")
        server.kill()
        server.start()
        assert server.client.delete(f"/v1/jobs/{job}").status_code == 204
        assert server.get("/v1/jobs")["jobs"] == []
    with sqlite3.connect(tmp_path / "home" / "jobs.sqlite3") as database:
        tally = database.execute("SELECT sum(n) FROM tally").fetchone()
    assert tally == (0,), "the counts follow"


def test_the_scene_lies_beside_the_result(server: RunningServer, clip: str, tmp_path: Path) -> None:
    """Same number of frames, size and rate as the video, and the same again for another take of the clip."""
    jobs = [server.submit(clip, seed=seed) for seed in (3, 4)]
    files = []
    for job in jobs:
        assert server.wait(job)["state"] == "done"
        for name in ("video.mp4", "scene.mp4"):
            answer = server.client.get(f"/v1/jobs/{job}/{name}")
            assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
            (tmp_path / name).write_bytes(answer.content)
        video, fps = read_video(tmp_path / "video.mp4")
        scene, scene_fps = read_video(tmp_path / "scene.mp4")
        assert scene.shape == video.shape and scene_fps == fps
        assert np.abs(scene.astype(float) - video).mean() > 10, "it is no copy of the video"
        told = json.loads(server.client.get(f"/v1/jobs/{job}/metadata.json").content)["video"]
        assert told == {"frames": len(video), "fps": fps, "width": video.shape[2], "height": video.shape[1]}
        files.append(answer.content)
    assert files[0] == files[1]
    log = (server.home / "logs").glob("*.log")
    assert not any("scene_video" in path.read_text("utf-8") for path in log), "no error while drawing"
