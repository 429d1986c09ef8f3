# SPDX-License-Identifier: Apache-2.0
"""Commands that let a server do the work: one that is started for the length of the command, or one that is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..client import Client, ClientError, GenerationRequest, Job

_PATIENCE_SECONDS = 60.0


class ServerError(RuntimeError):
    """The server did not start; the message has the end of its log."""


@contextmanager
def running_server(home: Path, *, model: str, start_timeout: float = 120.0) -> Iterator[Client]:
    """Start ``python -m server`` on a free loopback port, yield a client for it, and stop it."""
    home.mkdir(parents=True, exist_ok=True)
    handshake = home / "server.json"
    handshake.unlink(missing_ok=True)
    with open(home / "server.log", "w", encoding="utf-8") as log:
        # The worker loads the model while the caller is still busy with the clip.
        command = [sys.executable, "-m", "server", "--home", str(home), "--port", "0", "--model", model, "--preload"]
        # Killed, this process cannot stop it: the server ends by itself when its standard input does.
        process = subprocess.Popen(
            [*command, "--with-parent"], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + start_timeout
            while not handshake.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (home / "server.log").read_text(encoding="utf-8")[-2000:]
                    raise ServerError(f"the server did not start; the end of {home / 'server.log'}:\n{tail}")
                time.sleep(0.05)
            with Client.at_home(home, name="hvg3d") as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.stdin is not None:
                process.stdin.close()


def connect(server: str, token_file: Path | None = None, certificate: Path | None = None) -> Client:
    """``server``: an address, a server's home folder, or ``local`` for the default home of this machine.

    The token of an address is in ``token_file``, or in the environment variable HVG3D_TOKEN.
    """
    if not server.startswith(("http://", "https://")):
        return Client.at_home(None if server == "local" else server, patience=_PATIENCE_SECONDS, name="hvg3d")
    if token_file is not None:
        try:
            token = token_file.read_text("utf-8").strip()
        except OSError as error:
            raise ClientError(f"--token-file {token_file}: {error.strerror}", "copy the file 'token' here") from None
    else:
        token = os.environ.get("HVG3D_TOKEN", "")
    if not token:
        raise ClientError(
            f"no token for {server}",
            "give --token-file, or set HVG3D_TOKEN; it is the file 'token' in the server's home",
        )
    return Client(server, token, certificate=certificate, patience=_PATIENCE_SECONDS, name="hvg3d")


def run_job(
    client: Client,
    clip: Path,
    request: Callable[[str], GenerationRequest],
    on_update: Callable[[Job], None],
    label: str,
) -> Job:
    """Upload a clip, queue ``request(sha256)``, wait for its end. Raises ClientError when it does not succeed."""
    job = client.submit(request(client.upload(clip)), label=label)
    return client.wait(job.id, on_update)


class Narrator:
    """Prints a job's progress, a line for each change that a person can see."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._shown = ""

    def __call__(self, job: Job) -> None:
        text = f"  {job.state}"
        if job.state == "queued" and job.queue_position is not None:
            text += f", {job.queue_position} before it"
        elif job.progress is not None and job.state == "running":
            progress = job.progress
            text += f" {progress.phase} {progress.step}/{progress.total}"
            text += f", {progress.eta_seconds:.0f} s to go" if progress.eta_seconds is not None else ""
        if text != self._shown:
            self._say(text)
            self._shown = text
