# SPDX-License-Identifier: Apache-2.0
"""Places come and go, as nodes of a cluster do. Real worker processes behind a runner that the test commands."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from server.config import Settings
from server.events import Events
from server.files import Home
from server.models import Models
from server.process import WorkerProcess
from server.runner import Place
from server.schemas import JobView
from server.store import Store
from server.supervisor import Supervisor

from .serverkit import ROOT, sha256, tiny_clip


class Nodes:
    """A runner with the places that it is told of."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.told: asyncio.Queue[list[Place]] = asyncio.Queue()
        self.out_of_order: set[str] = set()

    async def places(self) -> AsyncIterator[Sequence[Place]]:
        while True:
            yield await self.told.get()

    async def start(self, place: Place) -> WorkerProcess:
        if place.id in self.out_of_order:
            raise OSError(f"{place.description} does not answer")
        return await WorkerProcess.start("slow_backend", self.logs / f"{place.id}.log", place.environment)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), here]))
    monkeypatch.setenv("HVG3D_TEST_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(here)
    home = Home(tmp_path / "home")
    home.clip(sha256(tiny_clip())).write_bytes(tiny_clip())
    return home


class Cluster:
    def __init__(self, home: Home) -> None:
        settings = Settings(home=home.root, backend="slow_backend")
        self.store = Store(home.database)
        self.nodes = Nodes(home.logs)
        models = Models("slow_backend", "nano")
        self.supervisor = Supervisor(settings, self.store, Events(self.store), home, models, self.nodes)

    def submit(self, steps: int) -> str:
        job = str(uuid.uuid4())
        request = {"clip": sha256(tiny_clip()), "model": "nano", "seed": 1, "num_inference_steps": steps, "prompt": ""}
        self.store.add(job, "", request, None, None)
        self.supervisor.wake()
        return job

    async def until(self, job: str, true: Callable[[JobView], bool]) -> JobView:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            view = self.store.view(job)
            assert view is not None
            if true(view):
                return view
            await asyncio.sleep(0.02)
        raise AssertionError(f"still {view}")


A, B = Place("a", "node a"), Place("b", "node b")


def test_a_lost_nodes_job_runs_elsewhere(home: Home) -> None:
    """The node goes while it works, another one comes: the job is done there, and nothing is held against it."""

    async def play() -> None:
        cluster = Cluster(home)
        cluster.supervisor.start()
        cluster.nodes.told.put_nowait([A])
        job = cluster.submit(40)
        await cluster.until(job, lambda view: bool(view.progress and view.progress.step >= 2))
        cluster.nodes.told.put_nowait([])
        waiting = await cluster.until(job, lambda view: view.state == "queued")
        assert waiting.note == "node a was lost; started again"
        assert cluster.supervisor.slots == []
        cluster.nodes.told.put_nowait([B])
        done = await cluster.until(job, lambda view: view.state == "done")
        assert [(attempt.worker, attempt.outcome) for attempt in done.attempts] == [
            ("node a", "lost"),
            ("node b", "done"),
        ]
        stored = cluster.store.get(job)
        assert stored is not None and stored.crashes == 0
        assert [path.name for path in (home.jobs / job).iterdir()] == ["result"]
        await cluster.supervisor.stop()
        cluster.store.close()

    asyncio.run(play())


def test_places_that_stay_keep_their_workers(home: Home) -> None:
    """A node more, a node less: the others' jobs and processes are untouched."""

    async def play() -> None:
        cluster = Cluster(home)
        cluster.supervisor.start()
        cluster.nodes.told.put_nowait([A])
        job = cluster.submit(30)
        await cluster.until(job, lambda view: view.state == "running")
        pid = cluster.supervisor.slots[0].view().pid
        cluster.nodes.told.put_nowait([A, B])
        other = cluster.submit(2)
        assert (await cluster.until(other, lambda view: view.state == "done")).attempts[0].worker == "node b"
        cluster.nodes.told.put_nowait([Place("a", "node a")])  # an equal one, named anew
        done = await cluster.until(job, lambda view: view.state == "done")
        assert len(done.attempts) == 1
        assert [slot.view().pid for slot in cluster.supervisor.slots] == [pid]
        await cluster.supervisor.stop()
        cluster.store.close()

    asyncio.run(play())


def test_a_node_that_cannot_start_a_worker_does_not_fail_jobs_that_another_can_do(home: Home) -> None:
    async def play() -> None:
        cluster = Cluster(home)
        cluster.nodes.out_of_order.add("b")
        cluster.supervisor.start()
        cluster.nodes.told.put_nowait([B, A])
        jobs = [cluster.submit(8) for _ in range(3)]
        for job in jobs:
            done = await cluster.until(job, lambda view: view.state in ("done", "failed"))
            assert (done.state, done.attempts[0].worker) == ("done", "node a")
        await cluster.supervisor.stop()
        cluster.store.close()

    asyncio.run(play())


def test_without_any_place_that_works_jobs_say_so(home: Home) -> None:
    async def play() -> None:
        cluster = Cluster(home)
        cluster.nodes.out_of_order.add("b")
        cluster.supervisor.start()
        cluster.nodes.told.put_nowait([B])
        failed = await cluster.until(cluster.submit(1), lambda view: view.state == "failed")
        assert failed.error is not None and failed.error.code == "worker_cannot_start"
        assert "node b does not answer" in failed.error.message
        await cluster.supervisor.stop()
        cluster.store.close()

    asyncio.run(play())
