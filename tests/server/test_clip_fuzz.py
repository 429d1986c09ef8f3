# SPDX-License-Identifier: Apache-2.0
"""Broken clips never bring a worker down: each is taken or refused with a reason, within its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hvg3d_core.conditions import safetensors
from tests.core.conditions.test_limits import small_clip

from .serverkit import ROOT, RunningServer, tiny_clip
from .test_requests import error_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit on a process's memory")


def fuzz(folder: Path, seed: int, count: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("clip_fuzzer.py")), str(seed), str(count), str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-2000:]}"
    report = json.loads(done.stdout)
    print(report)
    assert report["wrong"] == [], f"the clips are in {folder}"
    assert not report["unpickled"], "something in a clip was executed"
    outcomes = report["outcomes"]
    assert outcomes["taken"] + outcomes["refused"] + outcomes["too large"] == count
    assert outcomes["taken"] > count * 0.03, "the changes are so rough that the deeper checks are never reached"
    assert outcomes["too large"] > 0


def test_broken_clips(tmp_path: Path) -> None:
    fuzz(tmp_path, 1, 700)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_broken_clips(tmp_path: Path) -> None:
    fuzz(tmp_path, 2, 10_000)


def bomb() -> bytes:
    """A small file whose masks claim 4 GB."""
    tensors, metadata = safetensors.decode(np.frombuffer(tiny_clip(), np.uint8))
    frames = tensors["points"].shape[0]
    side = 16384
    tensors["views.0.masks"] = np.zeros(frames * side * side // 1000, np.uint8)
    inside = json.loads(metadata["hvg3d.clip"]) | {"width": side, "height": side}
    return b"".join(safetensors.encode(tensors, {**metadata, "hvg3d.clip": json.dumps(inside)}))


def test_the_operators_limits_reach_the_worker(tmp_path: Path) -> None:
    """A clip beyond a limit is stored (nobody has looked into it yet) and refused by the worker that reads it."""
    options = {
        "--max-frames": "9",
        "--max-points": "20",
        "--max-tracks": "4",
        "--max-pixels": "3000",
        "--max-decoded-mib": "0.06",
    }
    cases = (
        (small_clip(frames=17), "--max-frames", "it has 17 frames, and up to 9 are taken"),
        (small_clip(points=21), "--max-points", "it has 21 points, and up to 20 are taken"),
        (small_clip(tracks=5), "--max-tracks", "it has 5 tracks, and up to 4 are taken"),
        (small_clip(width=64, height=48), "--max-pixels", "64 x 48 pixels, and up to 3,000 in all are taken"),
        (small_clip(views=12), "--max-decoded-mib", "MiB decompressed"),
    )
    with RunningServer(tmp_path / "home", *(word for pair in options.items() for word in pair)) as server:
        assert server.wait(server.submit(server.upload(small_clip())))["state"] == "done"
        for data, option, words in cases:
            view = server.wait(server.submit(server.upload(data)))
            assert view["state"] == "failed"
            assert view["error"]["code"] == "clip_too_large"
            assert words in view["error"]["message"]
            assert option in view["error"]["remedy"]


def test_a_bomb_is_refused_and_the_worker_lives(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home") as server:
        pid = server.worker_pid()
        view = server.wait(server.submit(server.upload(bomb())))
        assert view["error"]["code"] == "clip_too_large"
        assert server.worker_pid() == pid


def test_numbers_of_the_queue_and_the_disk(tmp_path: Path) -> None:
    """Jobs beyond --max-queued, uploads beyond --max-uploads or the disk's reserve: each says which limit it is."""
    with RunningServer(tmp_path / "home", "--max-queued", "2", step_seconds=0.5) as server:
        clip = server.upload(tiny_clip())
        running = server.submit(clip, num_inference_steps=1000)
        server.wait(running, "running")
        for seed in range(2):
            server.submit(clip, seed=seed)
        body = {"id": "123e4567-e89b-12d3-a456-426614174000", "request": {"clip": clip}}
        error = error_of(server.client.post("/v1/jobs", json=body), 429)
        assert (error["code"], error["message"]) == ("queue_full", "2 jobs are queued already")
    with RunningServer(tmp_path / "full", "--min-free-mib", "1e9") as server:
        error = error_of(server.client.put(f"/v1/clips/{'0' * 64}", content=b"x"), 507)
        assert error["code"] == "disk_full"
        assert "bytes free" in error["message"]
        assert str(server.home) in error["remedy"]
        assert list((server.home / "uploads").iterdir()) == []


def test_numbers_of_connections(tmp_path: Path) -> None:
    from .test_uploads import noise, offset, send_part, wait_for_offset

    arguments = ("--max-uploads", "1", "--max-streams", "1")
    with RunningServer(tmp_path / "home", *arguments) as server:
        data, second = noise(3_000_000, 1), noise(1000, 2)
        line = send_part(server, data, 2_500_000)
        while "hvg3d_uploads_active 1.0" not in server.client.get("/v1/metrics").text:
            time.sleep(0.05)
        error = error_of(server.client.put(f"/v1/clips/{'0' * 64}", content=second), 429)
        assert (error["code"], error["message"]) == ("too_many_uploads", "1 uploads are under way already")
        line.close()
        wait_for_offset(server, data, 2_500_000)
        assert offset(server, data) == 2_500_000
        with server.client.stream("GET", "/v1/events") as stream:
            pieces = stream.iter_raw()  # kept: the stream ends with it
            next(pieces)
            error = error_of(server.client.get("/v1/events"), 429)
            assert error["code"] == "too_many_streams"
            assert error["remedy"].startswith("close one")
