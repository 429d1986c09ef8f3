# SPDX-License-Identifier: Apache-2.0
"""Clients that do their work while server and workers are killed under them, and what they must have seen."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from hvg3d_core.video import read_video

from .serverkit import FINISHED, RunningServer, sha256

_PATIENCE = 0.05  # seconds between tries


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Client(threading.Thread):
    """Sends its jobs, waits for each and fetches its files; whatever breaks, it tries again as a real client does."""

    def __init__(self, number: int, url: str, token: str, clip: bytes, requests: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        self.clip, self.digest = clip, sha256(clip)
        self.name = f"client {number}"
        self.jobs = {str(uuid.uuid4()): request for request in requests}
        self.done: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.broken = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.insist("PUT", f"/v1/clips/{self.digest}", content=self.clip)
            for job, request in self.jobs.items():
                body = {"id": job, "client": self.name, "request": {"clip": self.digest, **request}}
                self.insist("POST", "/v1/jobs", json=body)
            while len(self.done) < len(self.jobs):
                for job in self.jobs.keys() - self.done.keys():
                    view = self.insist("GET", f"/v1/jobs/{job}").json()
                    if view["state"] in FINISHED:
                        assert view["state"] == "done", view
                        urls = [view["result"][kind] for kind in ("video", "metadata", "preview")]
                        self.files[job] = {url.split("/")[-1]: self.insist("GET", url).content for url in urls}
                        self.done[job] = view
                time.sleep(_PATIENCE)
        except BaseException as error:  # told by the main thread
            self.error = error

    def insist(self, method: str, path: str, **body: Any) -> httpx.Response:
        while True:
            try:
                answer = self.http.request(method, path, **body)
            except httpx.TransportError:
                self.broken += 1
                time.sleep(_PATIENCE)
                continue
            assert answer.status_code in (200, 201), f"{method} {path}: {answer.status_code} {answer.text}"
            return answer


class Listener(threading.Thread):
    """Follows the event stream through all breaks, and keeps the jobs' states in the order in which they came."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        self.states: dict[str, list[str]] = defaultdict(list)
        self.last = 0
        self.leave = False

    def run(self) -> None:
        while not self.leave:
            try:
                self.listen()
            except httpx.HTTPError:
                time.sleep(_PATIENCE)

    def listen(self) -> None:
        with self.http.stream("GET", "/v1/events", params={"since": self.last}) as answer:
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields:
                    assert fields["event"] != "reset", "the stream has forgotten something"
                    assert int(fields["id"]) > self.last, "events come in order, each once"
                    self.last = int(fields["id"])
                    if fields["event"] == "job":
                        data = json.loads(fields["data"])
                        self.states[data["id"]].append(data["state"])
                    fields = {}
                if self.leave:
                    return


def workers_of(server: int) -> list[int]:
    """Worker processes, asked of the system: the server may be dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and b"server.worker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def wreak_havoc(
    server: RunningServer, clients: list[Client], kills: int, rng: random.Random, deadline: float
) -> Counter[str]:
    """Kill the server or a worker so many times, spread over the whole of the clients' work."""
    killed: Counter[str] = Counter()
    total = sum(len(client.jobs) for client in clients)
    while any(client.is_alive() for client in clients):
        assert time.monotonic() < deadline, f"{sum(len(c.done) for c in clients)} of {total} done\n{server_log(server)}"
        if any(client.error for client in clients):
            break
        done = sum(len(client.done) for client in clients)
        if sum(killed.values()) < kills and done >= sum(killed.values()) * (total - 2) / kills:
            time.sleep(rng.uniform(0, 0.3))
            workers = workers_of(server.process.pid)
            if workers and rng.random() < 0.5:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
            else:
                server.kill()
                killed["server"] += 1
                server.start()
        time.sleep(0.01)
    return killed


def server_log(server: RunningServer) -> str:
    return (server.home / "test.log").read_text()[-3000:]


def run_chaos(
    home: Path,
    *arguments: str,
    clip: bytes,
    clients: int,
    jobs: int,
    kills: int,
    seconds: float,
    request: Callable[[int], dict[str, Any]],
    frames: tuple[int, ...],
    step_seconds: float = 0.02,
) -> list[Client]:
    """``jobs`` in all, ``request(n)`` the n-th; ``frames``: the shape of the videos. Asserts all that was promised."""
    rng = random.Random(0)
    limits = ("--max-crashes", "100", "--max-attempts", "1000")
    server = RunningServer(home, "--port", str(free_port()), *limits, *arguments, step_seconds=step_seconds)
    with server:
        url, token = server.handshake["url"], server.handshake["token"]
        crowd = [Client(n, url, token, clip, [request(i) for i in range(n, jobs, clients)]) for n in range(clients)]
        listener = Listener(url, token)
        for thread in (listener, *crowd):
            thread.start()
        killed = wreak_havoc(server, crowd, kills, rng, time.monotonic() + seconds)
        for client in crowd:
            if client.error is not None:
                raise AssertionError(f"{client.name}: {client.error}\n{server_log(server)}") from client.error
        assert sum(killed.values()) == kills, killed
        assert min(killed["server"], killed["worker"]) >= kills // 4, killed
        assert sum(client.broken for client in crowd) > 0, "no client noticed anything: the server was not killed"
        end = time.monotonic() + 30
        while any(not s or s[-1] != "done" for s in list(listener.states.values())) and time.monotonic() < end:
            time.sleep(_PATIENCE)
        listener.leave = True

        mine = {job for client in crowd for job in client.jobs}
        listed, page = [], "?limit=1000"
        while page:
            answer = server.get(f"/v1/jobs{page}")
            listed += answer["jobs"]
            page = f"?limit=1000&before={answer['next']}" if answer["next"] else ""
        assert Counter(view["id"] for view in listed) == Counter(mine), "none lost, none twice"
        assert {view["state"] for view in listed} == {"done"}
        assert set(listener.states) == mine
        for job, states in listener.states.items():
            assert states.count("done") == 1 and states[-1] == "done", (job, states)
            # A state that was followed by another at once may have been lost with the server, never the order.
            assert states[0] == "queued", states
        check_files(server, crowd, frames)
        again = sum(view["attempt"] > 1 for view in listed)
        print(f"{jobs} jobs, {dict(killed)} killed, {again} jobs run more than once")
        assert again > 0, "nothing was ever interrupted"
    return crowd


def check_files(server: RunningServer, clients: list[Client], frames: tuple[int, ...]) -> None:
    """Every file is whole and the right one, and nothing else was left behind."""
    by_request: dict[str, list[np.ndarray]] = defaultdict(list)
    hashes: dict[str, set[str | None]] = defaultdict(set)
    for client in clients:
        for job, request in client.jobs.items():
            files = client.files[job]
            metadata = json.loads(files["metadata.json"])
            assert metadata["job"]["id"] == job
            assert metadata["job"]["request"]["seed"] == request["seed"]
            folder = server.home / "jobs" / job
            assert [path.name for path in folder.iterdir()] == ["result"]
            stored = {path.name: path.read_bytes() for path in (folder / "result").iterdir()}
            assert set(stored) <= {*files, "scene.mp4"}, "something was left behind"
            assert files.items() <= stored.items()
            assert files["preview.jpg"][:2] == b"\xff\xd8" and files["preview.jpg"][-2:] == b"\xff\xd9"
            video = read_video(folder / "result" / "video.mp4")[0]
            assert video.shape == frames
            by_request[json.dumps(request)].append(video.astype(np.float32))
            hashes[json.dumps(request)].add(metadata.get("frames_sha256"))
    assert {len(found) for found in hashes.values()} == {1}, "the same request, another video"
    # The encoder, though not the network, has been seen to write a frame differently once in a few hundred videos.
    videos = list(by_request.values())
    same = [float(np.abs(video - twins[0]).mean()) for twins in videos for video in twins]
    other = [float(np.abs(a[0] - b[0]).mean()) for a, b in pairwise(videos)]
    assert max(same) < 0.2 * min(other), "a video of another request"
