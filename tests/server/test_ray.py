# SPDX-License-Identifier: Apache-2.0
"""Jobs on a real Ray cluster of several nodes, which are killed, join, and lose their server's process."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from .serverkit import RunningServer, tiny_clip

pytest.importorskip("ray", reason="Ray is not installed (pip install 'hvg3d[ray]')")
from .raykit import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE = 240.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    with RayCluster(tmp_path) as running:
        yield running


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def workers(server: RunningServer, *states: str) -> list[dict[str, Any]]:
    return [worker for worker in server.get("/v1/health")["workers"] if worker["state"] in states]


def starts_and_ends(server: RunningServer, job: str) -> list[str]:
    """The states that a client who listens from the first event on is told of."""
    return [data["state"] for _, kind, data in server.follow(job, 0) if kind == "job"]


def check_whole(server: RunningServer, job: str) -> dict[str, Any]:
    """Video, scene, preview and metadata are in the server's home, and the clip's frames were seen by the worker."""
    result = server.home / "jobs" / job / "result"
    assert sorted(path.name for path in result.iterdir()) == ["metadata.json", "preview.jpg", "scene.mp4", "video.mp4"]
    assert b"ftyp" in (result / "video.mp4").read_bytes()[:16]
    Image.open(result / "preview.jpg").load()
    metadata = json.loads((result / "metadata.json").read_text())
    assert metadata["clip_frames"] == 9
    assert [path.name for path in result.parent.iterdir()] == ["result"]
    return metadata


def test_one_node_two_jobs_one_cancel(cluster: RayCluster, tmp_path: Path) -> None:
    """Results as of one machine, progress and previews while it runs, a cancel within a step, a clip larger than a
    piece, a job that takes its worker down."""
    node = cluster.add_node(2)
    with RunningServer(tmp_path / "home", "--ray", cluster.address, "--max-crashes", "1") as server:
        clip = server.upload(tiny_clip())
        done = server.wait(server.submit(clip, seed=1), seconds=PATIENCE)
        assert done["state"] == "done", done
        assert done["attempts"][0]["worker"].startswith("node ")
        metadata = check_whole(server, done["id"])
        assert metadata["threads"] == "2"
        assert node.has_child(metadata["pid"])

        long = server.submit(clip, num_inference_steps=900, seed=2)
        view = until(lambda: (v := server.job(long))["progress"] and v["progress"]["preview"] and v)
        picture = server.client.get(f"/v1/jobs/{long}/preview.jpg")
        assert Image.open(io.BytesIO(picture.content)).size == (64, 48)
        step = view["progress"]["step"]
        until(lambda: server.job(long)["progress"]["step"] > step)
        server.client.post(f"/v1/jobs/{long}/cancel")
        asked = time.monotonic()
        assert server.wait(long)["state"] == "cancelled"
        assert time.monotonic() - asked < 5, "a step takes 0.05 s; --cancel-grace is 60 s"
        assert [worker["pid"] for worker in workers(server, "idle")] == [metadata["pid"]], "nobody was killed"

        large = tiny_clip(count=100_000)
        assert len(large) > 2 * 4 * 1024 * 1024
        assert server.wait(server.submit(server.upload(large)), seconds=PATIENCE)["state"] == "done"

        failed = server.wait(server.submit(clip, prompt="crash"), seconds=PATIENCE)
        assert failed["error"]["code"] == "worker_died"
        assert [attempt["outcome"] for attempt in failed["attempts"]] == ["died", "died"]
        assert "signal 9 (SIGKILL" in failed["error"]["message"] and " on node " in failed["error"]["message"]
        assert any("a library prints" in line for line in failed["error"]["log"])
        assert server.stop() == 0
    until(lambda: not any("server.worker" in " ".join(p.cmdline()) for p in descendants(node.process)))


def test_a_node_is_lost_and_one_joins(cluster: RayCluster, tmp_path: Path) -> None:
    """Three nodes, one killed while it works, another one added: each job is done once, and is told so once."""
    for _ in range(3):
        cluster.add_node(1)
    with RunningServer(tmp_path / "home", "--ray", cluster.address) as server:
        until(lambda: len(workers(server, "idle")) == 3)
        clip = server.upload(tiny_clip())
        jobs = [server.submit(clip, seed=seed, num_inference_steps=60) for seed in range(9)]
        busy = until(lambda: (w := workers(server, "busy")) and len(w) == 3 and w)
        victim, others = busy[0], {worker["pid"] for worker in busy[1:]}
        until(lambda: (p := server.job(victim["job"])["progress"]) and p["phase"] == "denoise" and p["step"] >= 2)
        cluster.node_of(victim["pid"]).kill()
        newcomer = cluster.add_node(1)
        views = [server.wait(job, seconds=PATIENCE) for job in jobs]
        assert [view["state"] for view in views] == ["done"] * len(jobs)
        lost = server.job(victim["job"])
        assert [attempt["outcome"] for attempt in lost["attempts"]] == ["lost", "done"]
        assert "lost" in lost["attempts"][0]["reason"] or "loss of node" in lost["attempts"][0]["reason"]
        assert lost["attempts"][1]["worker"] != lost["attempts"][0]["worker"]
        assert [len(view["attempts"]) for view in views if view["id"] != lost["id"]] == [1] * (len(jobs) - 1)
        for job in jobs:
            check_whole(server, job)
            states = starts_and_ends(server, job)
            again = ["running", "queued"] if job == lost["id"] else []
            assert states == ["queued", *again, "running", "done"]
        until(lambda: len(workers(server, "idle")) == 3)
        pids = {worker["pid"] for worker in workers(server, "idle")}
        assert others < pids, "the other nodes' workers were left alone"
        assert newcomer.has_child((pids - others).pop())
        after = [server.submit(clip, seed=seed, num_inference_steps=20) for seed in (20, 21, 22)]
        where = {server.wait(job, seconds=PATIENCE)["attempts"][0]["worker"] for job in after}
        assert len(where) == 3, "the node that has joined works, too"
    database = sqlite3.connect(tmp_path / "home" / "jobs.sqlite3")
    assert database.execute("select count(*) from jobs where state = 'done'").fetchone() == (12,)
    assert database.execute("select max(crashes) from jobs").fetchone() == (0,), "a lost node is not held against a job"
    database.close()


def test_the_way_to_the_cluster_breaks(cluster: RayCluster, tmp_path: Path) -> None:
    """Ray ends the process that is connected when its head is away: the server stays, and finds its way back."""
    cluster.add_node(1)
    with RunningServer(tmp_path / "home", "--ray", cluster.address) as server:
        clip = server.upload(tiny_clip())
        job = server.submit(clip, num_inference_steps=40)
        until(lambda: (p := server.job(job)["progress"]) and p["step"] >= 2)
        drivers = [p for p in psutil.Process(server.process.pid).children() if "server.cluster.driver" in p.cmdline()]
        assert len(drivers) == 1
        os.kill(drivers[0].pid, signal.SIGKILL)
        view = server.wait(job, seconds=PATIENCE)
        assert (view["state"], [a["outcome"] for a in view["attempts"]]) == ("done", ["lost", "done"])
        check_whole(server, job)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
