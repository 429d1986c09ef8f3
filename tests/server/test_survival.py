# SPDX-License-Identifier: Apache-2.0
"""What happens when processes die: workers, the server, and both at once. Killed for real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server.__main__ import listen

from .serverkit import ROOT, RunningServer, tiny_clip


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory):
    with RunningServer(tmp_path_factory.mktemp("mortal"), "--cancel-grace", "1") as running:
        yield running


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_steps(server: RunningServer, job: str) -> None:
    """Until the job is past its first steps."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        progress = server.job(job)["progress"]
        if progress and progress["phase"] == "denoise" and progress["step"] >= 2:
            return
        time.sleep(0.02)
    raise AssertionError(f"no steps: {server.job(job)}")


def kill_worker(server: RunningServer, job: str) -> int:
    wait_for_steps(server, job)
    pid = server.worker_pid()
    os.kill(pid, signal.SIGKILL)
    return pid


def test_killed_worker_loses_no_job(mortal: RunningServer) -> None:
    """The job whose worker is killed is run again to its end, the one behind it too, and clients see why."""
    clip = mortal.upload(tiny_clip())
    since = mortal.get("/v1/jobs")["last_event"]
    job, behind = (mortal.submit(clip, num_inference_steps=15, seed=seed) for seed in (1, 2))
    pid = kill_worker(mortal, job)
    view = mortal.wait(job)
    assert (view["state"], view["attempt"]) == ("done", 2)
    assert "signal 9 (SIGKILL" in view["note"]
    assert mortal.wait(behind)["state"] == "done"
    states = [data["state"] for _, kind, data in mortal.follow(job, since) if kind == "job"]
    assert states == ["queued", "running", "queued", "running", "done"]
    assert mortal.worker_pid() != pid
    assert sorted(path.name for path in (mortal.home / "jobs" / job).iterdir()) == ["result"]


def test_job_that_kills_its_worker_fails_at_last(mortal: RunningServer) -> None:
    """Three starts, then it fails with how its worker ended; the next job is served."""
    clip = mortal.upload(tiny_clip())
    view = mortal.wait(mortal.submit(clip, prompt="crash"))
    assert (view["state"], view["attempt"]) == ("failed", 3)
    assert view["error"]["code"] == "worker_died"
    assert "3 times" in view["error"]["message"]
    assert "signal 9" in view["error"]["message"]
    assert any("a library prints" in line for line in view["error"]["log"])
    assert mortal.wait(mortal.submit(clip))["state"] == "done"
    assert mortal.get("/v1/health")["workers"][0]["last_exit"].startswith("signal 9")


def test_cancel_of_a_job_whose_worker_is_dying(mortal: RunningServer) -> None:
    clip = mortal.upload(tiny_clip())
    job = mortal.submit(clip, num_inference_steps=500, prompt="deaf")
    wait_for_steps(mortal, job)  # before the first step it still listens
    assert mortal.client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelling"
    kill_worker(mortal, job)
    assert mortal.wait(job)["state"] == "cancelled"


def test_cancel_of_a_job_that_does_not_listen(mortal: RunningServer) -> None:
    """After the time of grace its worker is killed, and the next job gets a new one."""
    clip = mortal.upload(tiny_clip())
    job = mortal.submit(clip, num_inference_steps=1000, prompt="deaf")
    wait_for_steps(mortal, job)
    pid = mortal.worker_pid()
    mortal.client.post(f"/v1/jobs/{job}/cancel")
    assert mortal.wait(job, seconds=5)["state"] == "cancelled"
    assert mortal.wait(mortal.submit(clip))["state"] == "done"
    assert mortal.worker_pid() != pid


def test_preload(tmp_path: Path) -> None:
    """The worker has the default model before there is a job, and the job does not load it again."""
    with RunningServer(tmp_path / "home", "--preload") as server:
        end = time.monotonic() + 10
        while server.get("/v1/health")["workers"][0]["model"] is None and time.monotonic() < end:
            time.sleep(0.05)
        worker = server.get("/v1/health")["workers"][0]
        assert (worker["state"], worker["model"], worker["device"]) == ("idle", "nano", "cpu")
        assert server.wait(server.submit(server.upload(tiny_clip())))["state"] == "done"
        log = (server.home / "logs" / "worker-0.log").read_text()
        assert log.count("a library prints when a model is loaded") == 1


def test_killed_server_loses_no_job(tmp_path: Path) -> None:
    """SIGKILL to the server while one job runs and two wait: its worker dies too, and after a start all are done."""
    with RunningServer(tmp_path / "home") as server:
        clip = server.upload(tiny_clip())
        jobs = [server.submit(clip, num_inference_steps=15, seed=seed) for seed in range(3)]
        server.wait(jobs[0], "running")
        since = server.get("/v1/jobs")["last_event"]
        pid = server.worker_pid()
        server.kill()
        end = time.monotonic() + 3
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert not alive(pid), "the worker outlived its server"

        server.start()
        views = [server.wait(job) for job in jobs]
        assert [view["state"] for view in views] == ["done"] * 3
        assert views[0]["note"] == "the server stopped while generating; started again"
        assert views[0]["attempt"] == 2
        assert len(server.get("/v1/jobs")["jobs"]) == 3
        states = [data["state"] for _, kind, data in server.follow(jobs[0], since) if kind == "job"]
        assert states == ["queued", "running", "done"], "a client that comes back hears all that happened"
        assert server.stop() == 0
        assert not (server.home / "server.json").exists()


def test_stopped_server_takes_the_job_up_again(tmp_path: Path) -> None:
    """Ctrl-C, also while a client listens: the server goes in time and the job is not charged for it."""
    with RunningServer(tmp_path / "home") as server:
        job = server.submit(server.upload(tiny_clip()), num_inference_steps=20)
        server.wait(job, "running")
        ended = threading.Event()

        def listen() -> None:
            for _ in server.events():
                pass
            ended.set()

        threading.Thread(target=listen, daemon=True).start()
        time.sleep(0.2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 4
        assert ended.wait(2), "the stream was left hanging"
        server.start()
        view = server.wait(job)
        assert view["state"] == "done"
        assert view["note"] == "the server was stopped while generating; started again"


def test_result_on_disk_before_the_table_knew(tmp_path: Path) -> None:
    """Killed between the rename and the commit: the finished result is found, not made again."""
    with RunningServer(tmp_path / "home") as server:
        job = server.submit(server.upload(tiny_clip()))
        server.wait(job, "done")
        server.kill()
        database = sqlite3.connect(server.home / "jobs.sqlite3")
        database.execute("UPDATE jobs SET state = 'running', finished = NULL")
        database.commit()
        database.close()
        server.start()
        view = server.wait(job)
        assert (view["state"], view["attempt"]) == ("done", 1)
        assert server.client.get(view["result"]["video"]).status_code == 200


def test_event_stream_resumes(mortal: RunningServer) -> None:
    """A listener that drops off and comes back with its last id gets every event once, in order."""
    clip = mortal.upload(tiny_clip())
    since = mortal.get("/v1/jobs")["last_event"]
    job = mortal.submit(clip, num_inference_steps=30)
    seen = []
    for event in mortal.events(f"?since={since}"):
        seen.append(event)
        if event[1] == "progress" and event[2]["progress"]["step"] >= 5:
            break
    time.sleep(0.5)
    for event in mortal.events(headers={"Last-Event-ID": str(seen[-1][0])}):
        seen.append(event)
        if event[1] == "job" and event[2]["state"] == "done":
            break
    whole = mortal.follow(job, since)
    assert seen == whole
    ids = [event[0] for event in seen]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    future = next(mortal.events("?since=999999999999"))
    assert future[1] == "reset"


def test_short_answers_are_not_held_back() -> None:
    """On what the server listens on, asyncio turns Nagle's algorithm off for every connection."""

    async def ask() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listen("127.0.0.1", 0)
        async with await asyncio.start_server(serve, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            value = await accepted
            writer.close()
            return value

    assert asyncio.run(ask()) != 0


def run_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, "-m", "server", "--backend", "slow_backend", *arguments],
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


def test_second_server_on_the_same_home(mortal: RunningServer) -> None:
    second = run_server("--home", str(mortal.home))
    assert second.returncode == 2
    assert f"another server (process {mortal.process.pid}, {mortal.handshake['url']}) already uses" in second.stderr


def test_starts_that_cannot_work_say_why(tmp_path: Path, mortal: RunningServer) -> None:
    """A port in use, an unknown model, an unusable token, a table of a newer server, a table that is none."""
    port = run_server("--home", str(tmp_path / "a"), "--port", str(mortal.handshake["port"]))
    assert "cannot listen on 127.0.0.1" in port.stderr
    model = run_server("--home", str(tmp_path / "b"), "--model", "gpt")
    assert "--model gpt: model 'gpt' is not known" in model.stderr
    (tmp_path / "short").write_text("abc")
    token = run_server("--home", str(tmp_path / "c"), "--token-file", str(tmp_path / "short"))
    assert "at least 16" in token.stderr
    (tmp_path / "d").mkdir()
    database = sqlite3.connect(tmp_path / "d" / "jobs.sqlite3")
    database.execute("PRAGMA user_version = 99")
    database.close()
    newer = run_server("--home", str(tmp_path / "d"))
    assert "schema version 99, written by a newer server" in newer.stderr
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "jobs.sqlite3").write_bytes(b"x" * 5000)
    broken = run_server("--home", str(tmp_path / "e"))
    assert "cannot be read as a job table" in broken.stderr
    for result in (port, model, token, newer, broken):
        assert result.returncode in (1, 2)
        assert "Traceback" not in result.stderr
