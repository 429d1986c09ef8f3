# SPDX-License-Identifier: Apache-2.0
"""A server that was started by another program ends with it, and so does its worker, however that program ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .serverkit import ROOT, tiny_clip

PROGRAM = """
import json, os, subprocess, sys, time
how, home, words = sys.argv[1:4]
command = [sys.executable, "-m", *how.split(), "--home", home, "--backend", "slow_backend", "--with-parent"]
log = open(os.path.join(home, "log"), "wb")
server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
if "fork" in words and os.fork() == 0:  # a child that still holds the line
    print(json.dumps({"holder": os.getpid()}), flush=True)
    time.sleep(60)
    os._exit(0)
for word in words.split():
    if word != "fork":
        server.stdin.write(word.encode() + b"\\n")
server.stdin.flush()
time.sleep(60)
"""


class Program:
    """The parent of a server."""

    def __init__(self, home: Path, words: str = "", how: str = "server", step: str = "0.2") -> None:
        self.home = home
        home.mkdir()
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        environment = {"PYTHONPATH": path, "HVG3D_TEST_FOLDER": str(home), "HVG3D_TEST_STEP_SECONDS": step}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how, str(home), words],
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.handshake = self.until_ready()
        self.server = psutil.Process(self.handshake["pid"])
        self.worker = self.until_worker()

    def until_ready(self) -> dict:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if (self.home / "server.json").is_file():
                return json.loads((self.home / "server.json").read_text())
            time.sleep(0.05)
        raise AssertionError((self.home / "log").read_text())

    def until_worker(self) -> psutil.Process:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for child in self.server.children():
                if "server.worker" in child.cmdline():
                    return child
            time.sleep(0.05)
        raise AssertionError("no worker")

    def gone(self, seconds: float) -> bool:
        """Whether server and worker are gone within ``seconds``."""
        _, left = psutil.wait_procs([self.server, self.worker], timeout=seconds)
        return not left

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for process in (self.server, self.worker):
            if process.is_running():
                process.kill()


@pytest.fixture
def program(tmp_path):
    started: list[Program] = []

    def start(*arguments: str, **options: str) -> Program:
        started.append(Program(tmp_path / f"home{len(started)}", *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("how", ["server", "hvg3d_core.cli.main serve"])
def test_ends_when_the_program_is_killed(program, how):
    """Also through ``hvg3d serve``, where a process stands between."""
    parent = program(how=how)
    parent.process.kill()
    assert parent.gone(10)
    assert not (parent.home / "server.json").exists()  # an orderly end


def test_a_running_job_goes_back_to_the_queue(program):
    """The program dies in the middle of a job: no worker is left, and the next server does the job."""
    import sqlite3

    import httpx

    parent = program(step="1.5")
    headers = {"Authorization": f"Bearer {parent.handshake['token']}"}
    with httpx.Client(base_url=parent.handshake["url"], headers=headers) as client:
        from .serverkit import sha256

        clip = tiny_clip()
        client.put(f"/v1/clips/{sha256(clip)}", content=clip).raise_for_status()
        job = "123e4567-e89b-12d3-a456-426614174000"
        client.post("/v1/jobs", json={"id": job, "request": {"clip": sha256(clip)}}).raise_for_status()
        end = time.monotonic() + 20
        while client.get(f"/v1/jobs/{job}").json()["state"] != "running":
            assert time.monotonic() < end
            time.sleep(0.05)
    parent.process.kill()
    assert parent.gone(12)
    database = sqlite3.connect(parent.home / "jobs.sqlite3")
    assert database.execute("SELECT state FROM jobs").fetchall() == [("queued",)]
    database.close()


def test_stays_when_told_to(program):
    """The last word counts: ``leave stay`` stays, ``stay leave`` goes."""
    stays, goes = program("leave stay"), program("stay leave")
    for parent in (stays, goes):
        parent.process.kill()
    assert goes.gone(10)
    assert not stays.gone(3)
    stays.server.send_signal(signal.SIGINT)
    assert stays.gone(10)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_that_holds_the_line_does_not_keep_it(program):
    parent = program("fork")
    assert parent.process.stdout is not None
    holder = psutil.Process(json.loads(parent.process.stdout.readline())["holder"])
    try:
        parent.process.kill()
        parent.process.wait()
        assert holder.is_running()
        assert parent.gone(12)
    finally:
        holder.kill()


def test_nobody_listens_to_a_terminal_that_is_closed(tmp_path):
    """Without --with-parent an empty standard input means nothing."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "--home", str(tmp_path), "--backend", "slow_backend"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "HVG3D_TEST_FOLDER": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        assert "ready at" in process.stdout.readline()
        time.sleep(2.5)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stdout.close()
