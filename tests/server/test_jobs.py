# SPDX-License-Identifier: Apache-2.0
"""The life of a job, over real HTTP, with a real worker process."""

from __future__ import annotations

import io
import json
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvg3d_core.video import read_video

from .serverkit import RunningServer, sha256, tiny_clip


def test_from_clip_to_video(server: RunningServer, clip: str, tmp_path: Path) -> None:
    """A job passes queued, running, done; its progress only grows and is whole only with the video, which plays."""
    since = server.get("/v1/jobs")["last_event"]
    job = server.submit(clip, seed=7, num_inference_steps=20, prompt="a hand")
    events = server.follow(job, since)

    states = [data["state"] for _, kind, data in events if kind == "job"]
    assert states == ["queued", "running", "done"]
    progress = [data["progress"] for _, kind, data in events if kind == "progress"]
    assert len(progress) >= 8
    fractions = [p["fraction"] for p in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] < 1.0
    assert events[-1][2]["progress"]["fraction"] == 1.0
    phases = [p["phase"] for p in progress]
    assert [name for name, before in zip(phases, ["", *phases], strict=False) if name != before] == [
        "load",
        "encode",
        "denoise",
        "decode",
        "write",
    ]
    middle = [p for p in progress if p["phase"] == "denoise" and 5 <= p["step"] <= 15]
    for p in middle:  # a step takes 0.05 s here
        rest = (p["total"] - p["step"]) * 0.05
        assert 0.7 * rest < p["eta_seconds"] < 2 * rest + 1, p
    assert any(p["preview"] for p in progress)

    view = server.job(job)
    video = server.client.get(view["result"]["video"])
    assert video.headers["content-type"] == "video/mp4"
    (tmp_path / "video.mp4").write_bytes(video.content)
    frames, fps = read_video(tmp_path / "video.mp4")
    assert frames.shape == (9, 48, 64, 3)
    assert fps == 8.0
    part = server.client.get(view["result"]["video"], headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == video.content[10:20]
    metadata = server.get(view["result"]["metadata"])
    assert metadata["clip_frames"] == 9
    assert metadata["job"]["request"] == view["request"]
    assert view["request"]["model"] == "nano"
    picture = Image.open(io.BytesIO(server.client.get(view["result"]["preview"]).content))
    assert picture.size == (64, 48)


def test_preview_while_running(server: RunningServer, clip: str) -> None:
    job = server.submit(clip, num_inference_steps=60)
    for _, kind, data in server.events(f"?since=0&job={job}"):
        if kind == "progress" and data["progress"]["preview"]:
            break
    answer = server.client.get(f"/v1/jobs/{job}/preview.jpg")
    assert server.job(job)["state"] == "running"
    assert answer.headers["cache-control"] == "no-store"
    assert np.asarray(Image.open(io.BytesIO(answer.content))).shape == (48, 64, 3)
    assert server.client.get(f"/v1/jobs/{job}/video.mp4").json()["error"]["code"] == "job_not_done"
    server.client.post(f"/v1/jobs/{job}/cancel")
    assert server.wait(job)["state"] == "cancelled"


def test_same_id_is_the_same_job(server: RunningServer, clip: str) -> None:
    """A repeated POST, also with defaults spelled out, makes no second job; another request under the id is refused."""
    job = str(uuid.uuid4())
    body = {"id": job, "request": {"clip": clip, "seed": 3, "num_inference_steps": 1}}
    first = server.client.post("/v1/jobs", json=body)
    again = server.client.post(
        "/v1/jobs", json={"request": {**body["request"], "negative_prompt": ""}, "id": job.upper()}
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == job
    assert [view["id"] for view in server.get("/v1/jobs?limit=1000")["jobs"]].count(job) == 1
    other = server.client.post("/v1/jobs", json={**body, "request": {**body["request"], "seed": 4}})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "id_conflict"
    server.wait(job)


def test_cancel_running_within_a_step(server: RunningServer, clip: str) -> None:
    job = server.submit(clip, num_inference_steps=1000)
    server.wait(job, "running")
    pid = server.worker_pid()
    answer = server.client.post(f"/v1/jobs/{job}/cancel").json()
    assert answer["state"] in ("cancelling", "cancelled")
    view = server.wait(job, seconds=2)
    assert view["state"] == "cancelled"
    assert server.client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert server.worker_pid() == pid, "the worker and its model stay"
    end = time.monotonic() + 5
    while list((server.home / "jobs" / job).iterdir()):  # swept after the answer
        assert time.monotonic() < end
        time.sleep(0.02)


def test_queue_moves_and_cancels(server: RunningServer, clip: str) -> None:
    """Places in the queue are what GET shows, what move says, and the order in which jobs then run."""
    running = server.submit(clip, num_inference_steps=1000)
    server.wait(running, "running")
    a, b, c, d = (server.submit(clip, num_inference_steps=1, seed=seed) for seed in range(4))
    assert [server.job(job)["queue_position"] for job in (a, b, c, d)] == [0, 1, 2, 3]
    assert server.client.post(f"/v1/jobs/{c}/move", json={"position": 0}).json()["queue_position"] == 0
    assert server.client.post(f"/v1/jobs/{a}/move", json={"position": 99}).json()["queue_position"] == 3
    assert server.client.post(f"/v1/jobs/{b}/cancel").json()["state"] == "cancelled"
    queued = server.get("/v1/jobs?state=queued")["jobs"]
    assert {view["id"]: view["queue_position"] for view in queued} == {c: 0, d: 1, a: 2}
    refused = server.client.post(f"/v1/jobs/{running}/move", json={"position": 0})
    assert refused.json()["error"]["code"] == "job_not_queued"
    server.client.post(f"/v1/jobs/{running}/cancel")
    started = [server.wait(job)["started_at"] for job in (c, d, a)]
    assert started == sorted(started)
    assert server.job(b)["state"] == "cancelled"
    assert server.job(b)["started_at"] is None


def test_pages_of_the_list(server: RunningServer, clip: str) -> None:
    jobs = [server.submit(clip, num_inference_steps=1, seed=seed) for seed in range(5)]
    seen, query = [], "?limit=2"
    for _ in range(3):
        page = server.get(f"/v1/jobs{query}")
        seen += [view["id"] for view in page["jobs"]]
        query = f"?limit=2&before={page['next']}"
    assert seen[:5] == jobs[::-1]
    server.wait(jobs[-1])


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ("memory", "out_of_memory", "Unable to allocate"),
        ("bug", "generation_failed", "the flux capacitor is missing"),
        ("empty", "generation_failed", "video.mp4 is missing"),
    ],
)
def test_failures_are_named(server: RunningServer, clip: str, prompt: str, code: str, words: str) -> None:
    """A job that fails says why and what to do, and the worker is there for the next one."""
    pid = server.worker_pid()
    view = server.wait(server.submit(clip, prompt=prompt))
    assert view["state"] == "failed"
    assert view["error"]["code"] == code
    assert words in view["error"]["message"]
    assert view["error"]["remedy"]
    if prompt == "bug":
        assert any("RuntimeError" in line for line in view["error"]["log"])
    assert server.wait(server.submit(clip))["state"] == "done"
    assert server.worker_pid() == pid


def test_bad_clips_fail_in_the_worker_with_their_reason(server: RunningServer, clip_data: bytes) -> None:
    """Truncated, no clip at all, and a newer schema: the message of the clip reader arrives, without server paths."""
    length = int.from_bytes(clip_data[:8], "little")
    header = json.loads(clip_data[8 : 8 + length])
    header["__metadata__"]["hvg3d.schema"] = "99"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    newer = len(text).to_bytes(8, "little") + text + clip_data[8 + length :]
    for data, words in ((clip_data[:-100], ""), (b"not a clip", ""), (newer, "schema version 99")):
        view = server.wait(server.submit(server.upload(data)))
        assert view["state"] == "failed"
        assert view["error"]["code"] == "clip_invalid", view["error"]
        assert words in view["error"]["message"]
        assert str(server.home) not in view["error"]["message"]


def test_clips_are_verified_and_kept_once(server: RunningServer) -> None:
    data = tiny_clip(seed=1)
    address = f"/v1/clips/{sha256(data)}"
    assert server.client.head(address).status_code == 404
    wrong = server.client.put(address, content=data[:-1])
    assert wrong.status_code == 422
    assert wrong.json()["error"]["code"] == "hash_mismatch"
    assert server.client.head(address).status_code == 404
    assert server.client.put(address, content=data).status_code == 201
    assert server.client.put(address, content=data).json() == {
        "sha256": sha256(data),
        "bytes": len(data),
        "created": False,
    }
    assert server.client.head(address).headers["x-clip-bytes"] == str(len(data))
    assert list((server.home / "uploads").iterdir()) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_an_upload_is_refused(server: RunningServer, chunked: bool) -> None:
    """With and without a declared length; nothing stays on disk."""
    data = bytes(300_000)
    content = (data[i : i + 10_000] for i in range(0, len(data), 10_000)) if chunked else data
    answer = server.client.put(f"/v1/clips/{sha256(data)}", content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "clip_too_large"
    assert "--max-clip-mib" in answer.json()["error"]["remedy"]
    assert list((server.home / "uploads").iterdir()) == []
