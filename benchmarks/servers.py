# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of the server share: a real server process, a synthetic clip, what a process costs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from hvg3d_core.conditions import Clip, Entity, View, clip_bytes, encode_png

ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def make_clip(frames: int = 17, points: int = 512, width: int = 192, height: int = 128) -> bytes:
    """The file of a clip of a nano's size: two blobs of points, drifting before a camera at rest."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(0, 0.05, (1, points, 3)) + [0, 0, 0.6]
    cloud = (cloud + np.linspace(0, 0.1, frames)[:, None, None] * [1, 0.3, 0]).astype(np.float32)
    K = np.tile(np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float32), (frames, 1, 1))
    camera = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    picture = np.broadcast_to(np.linspace(60, 200, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    masks = np.zeros((frames, height, width), np.uint8)
    view = View("camera", K, camera, np.ones((frames, points), bool), masks, encode_png(picture))
    return clip_bytes(
        Clip(
            points=cloud,
            point_entity=np.repeat(np.array([0, 1], np.uint8), points // 2),
            tracks=cloud[:, ::4].copy(),
            track_visible=np.ones((frames, points // 4), bool),
            views=[view],
            entities=(Entity("hand", "right_hand"), Entity("mug", "object")),
            fps=8.0,
            frame_range=(1, frames),
            width=width,
            height=height,
            prompt="a hand lifts a mug",
        )
    )


class Server:
    """A running one, and a client of it."""

    def __init__(self, home: Path, process: subprocess.Popen[str]) -> None:
        self.home, self.process = home, process
        handshake = json.loads((home / "server.json").read_text("utf-8"))
        token = f"Bearer {handshake['token']}"
        self.http = httpx.Client(base_url=handshake["url"], headers={"Authorization": token}, timeout=60)

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def upload(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.http.put(f"/v1/clips/{digest}", content=data).raise_for_status()
        return digest

    def submit(self, clip: str, **request: Any) -> str:
        job = str(uuid.uuid4())
        body = {"id": job, "client": request.pop("client", None), "request": {"clip": clip, **request}}
        self.http.post("/v1/jobs", json=body).raise_for_status()
        return job

    def wait(self, *jobs: str) -> list[dict[str, Any]]:
        """By the event stream, as a patient client does it: without asking again and again. Returns the jobs."""
        since, open_jobs = 0, set(jobs)
        with self.http.stream("GET", f"/v1/events?since={since}", timeout=None) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                data = json.loads(line.removeprefix("data: "))
                if data.get("state") in ("done", "failed", "cancelled"):
                    if data["state"] != "done":
                        raise RuntimeError(f"job {data['id']}: {data['error']}")
                    open_jobs.discard(data["id"])
                    if not open_jobs:
                        break
        return [self.get(f"/v1/jobs/{job}") for job in jobs]

    def wait_for_workers(self, count: int, model: str | None = None) -> list[dict[str, Any]]:
        while True:
            workers = self.get("/v1/health")["workers"]
            ready = [w for w in workers if w["state"] in ("idle", "busy") and (model is None or w["model"] == model)]
            if len(ready) >= count:
                return ready
            time.sleep(0.05)


@contextmanager
def running_server(*arguments: str, **environment: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="hvg3d-bench-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with open(home / "server.log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "server", "--home", str(home), *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]), **environment},
            )
            assert process.stdout is not None
            if "ready at" not in process.stdout.readline():
                raise RuntimeError((home / "server.log").read_text("utf-8"))
            try:
                yield Server(home, process)
            finally:
                process.terminate()
                process.wait(30)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory of a process, now and at its peak (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
