# SPDX-License-Identifier: Apache-2.0
"""A real server process for the length of a command, and one job on it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class ServerError(RuntimeError):
    """The server did not start, or refused, or a job failed; the message says why."""


@contextmanager
def running_server(home: Path, *, model: str, start_timeout: float = 120.0) -> Iterator[httpx.Client]:
    """Start ``python -m server`` on a free loopback port, yield a client that carries its token, and stop it."""
    home.mkdir(parents=True, exist_ok=True)
    handshake = home / "server.json"
    handshake.unlink(missing_ok=True)
    with open(home / "server.log", "w", encoding="utf-8") as log:
        # The worker loads the model while the caller is still busy with the clip.
        command = [sys.executable, "-m", "server", "--home", str(home), "--port", "0", "--model", model, "--preload"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + start_timeout
            while not handshake.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (home / "server.log").read_text(encoding="utf-8")[-2000:]
                    raise ServerError(f"the server did not start; the end of {home / 'server.log'}:\n{tail}")
                time.sleep(0.05)
            greeting = json.loads(handshake.read_text(encoding="utf-8"))
            headers = {"Authorization": f"Bearer {greeting['token']}"}
            with httpx.Client(base_url=greeting["url"], headers=headers, timeout=30) as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        try:
            error = response.json()["error"]
            text = " ".join(part for part in (error["message"], error.get("remedy")) if part)
        except (ValueError, KeyError):
            text = response.text
        raise ServerError(f"{response.request.method} {response.request.url.path}: {response.status_code}: {text}")
    return response


def run_job(
    client: httpx.Client, clip: Path, request: dict[str, Any], on_progress: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Upload a clip, queue a job, wait for its end. Returns the job. Raises ServerError when it does not succeed."""
    blob = clip.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    _checked(client.put(f"/v1/clips/{digest}", content=blob))
    job_id = str(uuid.uuid4())
    _checked(client.post("/v1/jobs", json={"id": job_id, "request": {"clip": digest, **request}}))
    while True:
        job: dict[str, Any] = _checked(client.get(f"/v1/jobs/{job_id}")).json()
        on_progress(job)
        if job["state"] == "done":
            return job
        if job["state"] in ("failed", "cancelled"):
            raise ServerError(f"the job {job['state']}: {(job.get('error') or {}).get('message', 'no reason given')}")
        time.sleep(0.2)


def download(client: httpx.Client, job_id: str, name: str, target: Path) -> Path:
    """Fetch a job's ``video.mp4``, ``metadata.json`` or ``preview.jpg``."""
    target.write_bytes(_checked(client.get(f"/v1/jobs/{job_id}/{name}")).content)
    return target
