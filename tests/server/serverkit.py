# SPDX-License-Identifier: Apache-2.0
"""A real server process and what a client needs to talk to it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
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
from server.link import trust

ROOT = Path(__file__).parents[2]
FINISHED = ("done", "failed", "cancelled")


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """For tests of very many commits, where what a disk takes for each is not what is tested."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def tiny_clip(frames: int = 9, seed: int = 0, count: int = 16) -> bytes:
    """The file of a valid clip: a hand's and an object's points drifting in front of a camera, 32 x 24 pixels.

    ``count``: points in each frame, even.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.2, 0.2, (1, count, 3)) + [0, 0, 2] + np.linspace(0, 0.1, frames)[:, None, None]
    points = points.astype(np.float32)
    K = np.tile(np.array([[30, 0, 16], [0, 30, 12], [0, 0, 1]], np.float32), (frames, 1, 1))
    camera = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    picture = rng.integers(0, 255, (24, 32, 3), np.uint8)
    view = View(
        "camera", K, camera, np.ones((frames, count), bool), np.zeros((frames, 24, 32), np.uint8), encode_png(picture)
    )
    return clip_bytes(
        Clip(
            points=points,
            point_entity=np.repeat(np.array([0, 1], np.uint8), count // 2),
            tracks=points[:, :16:4].copy(),
            track_visible=np.ones((frames, 4), bool),
            views=[view],
            entities=(Entity("hand", "right_hand"), Entity("mug", "object")),
            fps=8.0,
            frame_range=(1, frames),
            width=32,
            height=24,
            prompt="a hand lifts a mug",
        )
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class RunningServer:
    """``python -m server`` on a free port, with the slow backend."""

    def __init__(self, home: Path, *arguments: str, step_seconds: float = 0.05, **environment: str) -> None:
        self.home = home
        self._arguments = arguments
        self._environment = {"HVG3D_TEST_STEP_SECONDS": str(step_seconds), **environment}
        self.start()

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        self.log = open(self.home / "test.log", "ab")  # noqa: SIM115 - the process writes into it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "--home", str(self.home), "--backend", "slow_backend", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=self.home,
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "HVG3D_TEST_FOLDER": str(self.home),
                **self._environment,
            },
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert "ready at http" in self.ready_line, (self.home / "test.log").read_text()
        self.handshake = json.loads((self.home / "server.json").read_text())
        self.client = httpx.Client(
            base_url=self.handshake["url"],
            timeout=20,
            headers={"Authorization": f"Bearer {self.handshake['token']}"},
            verify=trust(self.handshake) or True,
        )

    def kill(self) -> None:
        """As a power cut does it: no goodbye."""
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(15)
        self._close()
        return code

    def _close(self) -> None:
        self.client.close()
        self.log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    # requests

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, data: bytes) -> str:
        digest = sha256(data)
        answer = self.client.put(f"/v1/clips/{digest}", content=data)
        assert answer.status_code in (200, 201), answer.text
        return digest

    def submit(self, clip: str, *, client: str | None = None, priority: int = 0, **fields: Any) -> str:
        job = str(uuid.uuid4())
        body = {"id": job, "client": client, "priority": priority, "request": {"clip": clip, **fields}}
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return job

    def job(self, job: str) -> dict[str, Any]:
        return self.get(f"/v1/jobs/{job}")

    def wait(self, job: str, *states: str, seconds: float = 20) -> dict[str, Any]:
        """Until the job is in one of ``states`` (any final one, unless given)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            view = self.job(job)
            if view["state"] in (states or FINISHED):
                return view
            time.sleep(0.03)
        raise AssertionError(f"still {view}\n{(self.home / 'test.log').read_text()[-3000:]}")

    def worker_pid(self) -> int:
        return self.worker_pids(1)[0]

    def worker_pids(self, count: int) -> list[int]:
        """Once so many workers are at work, or ready for it."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            workers = self.get("/v1/health")["workers"]
            pids = [worker["pid"] for worker in workers if worker["state"] in ("idle", "busy")]
            if len(pids) >= count:
                return pids
            time.sleep(0.03)
        raise AssertionError(f"no worker: {workers}")

    def events(
        self, query: str = "", headers: dict[str, str] | None = None
    ) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(id, type, data) of each event, as they come."""
        with self.client.stream("GET", f"/v1/events{query}", headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line and name:
                    fields[name] = value
                elif not line and "data" in fields:
                    yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                    fields = {}

    def follow(self, job: str, since: int) -> list[tuple[int, str, dict[str, Any]]]:
        """All events of a job after ``since`` until it is finished."""
        seen = []
        for event in self.events(f"?since={since}&job={job}"):
            seen.append(event)
            if event[1] == "job" and event[2]["state"] in FINISHED:
                return seen
        raise AssertionError("the stream ended early")
