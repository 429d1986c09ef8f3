# SPDX-License-Identifier: Apache-2.0
"""The typed client against a real server: all it can do, over broken lines and restarts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
import typing
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvg3d_core import client as package
from hvg3d_core.client import (
    Client,
    ClientError,
    GenerationRequest,
    Job,
    JobFailed,
    NotFound,
    Refused,
    Unauthorized,
    Unreachable,
    default_home,
)
from hvg3d_core.client.types import read
from server import config, schemas
from server.openapi import FILE

from .flaky import FlakyLine
from .serverkit import ROOT, RunningServer, sha256, tiny_clip

SCHEMAS = json.loads(FILE.read_text("utf-8"))["components"]["schemas"]
PAIRS = {
    "GenerationRequest": package.GenerationRequest,
    "Progress": package.Progress,
    "ErrorInfo": package.Error,
    "Attempt": package.Attempt,
    "JobResult": package.Result,
    "JobView": package.Job,
    "JobList": package.JobPage,
    "ModelView": package.Model,
    "WorkerView": package.Worker,
    "Health": package.Health,
}


def described(schema: dict[str, Any]) -> set[str]:
    """The types that a schema allows, in the words of :func:`declared`."""
    if "anyOf" in schema:
        return set().union(*(described(option) for option in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {"string"} if "enum" in SCHEMAS[name] else {PAIRS[name].__name__}
    if schema["type"] == "array":
        return {f"list of {kind}" for kind in described(schema["items"])}
    return {schema["type"]}


def declared(hint: Any) -> set[str]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*(declared(option) for option in typing.get_args(hint)))
    if typing.get_origin(hint) is list:
        return {f"list of {kind}" for kind in declared(typing.get_args(hint)[0])}
    if typing.get_origin(hint) is dict:
        return {"object"}
    names = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
    return {names.get(hint) or hint.__name__}


@pytest.mark.parametrize("name", PAIRS)
def test_types_are_those_of_the_description(name: str) -> None:
    """Every field of the published schema is there, with the same types; and nothing else."""
    hints = typing.get_type_hints(PAIRS[name])
    assert {field: declared(hint) for field, hint in hints.items()} == {
        field: described(schema) for field, schema in SCHEMAS[name]["properties"].items()
    }


def test_a_default_request_is_the_servers_default_request() -> None:
    mine = GenerationRequest("0" * 64).to_json()
    assert mine == schemas.GenerationRequest(clip="0" * 64).model_dump()


def test_both_know_the_same_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        assert default_home() == config.default_home()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert default_home() == config.default_home() == Path("/elsewhere/hvg3d/server")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": 3}, "Job.state: 3 is not"),
        ({"progress": []}, "Job.progress: list instead of an object"),
        ({"progress": {"phase": "x"}}, "Job.progress: step, total, fraction, preview missing"),
        ({"attempts": [1]}, r"Job.attempts\[0\]: int instead of an object"),
        ({"attempt": True}, "Job.attempt: True is not"),
        ({"id": None}, "Job.id: None is not"),
    ],
)
def test_answers_of_another_release_are_named(server: RunningServer, clip: str, change: dict, words: str) -> None:
    """What cannot be read says where; what is new is left out."""
    view = server.wait(server.submit(clip, num_inference_steps=1))
    assert isinstance(read(Job, {**view, "invented later": 1}), Job)
    with pytest.raises(ValueError, match=words):
        read(Job, {**view, **change})


def test_from_clip_to_video(server: RunningServer, tmp_path: Path) -> None:
    """The example of the package's description, with all that can be asked on the way."""
    path = tmp_path / "shot.clip.safetensors"
    path.write_bytes(tiny_clip(seed=11))
    shown: list[float] = []
    with Client.at_home(server.home, name="test") as client:
        assert client.ready() == []
        sha = client.upload(path, shown.append)
        assert shown == sorted(shown) and shown[-1] == 1.0
        assert client.has_clip(sha) and client.upload(path) == sha
        id = str(uuid.uuid4())
        request = GenerationRequest(sha, seed=5, num_inference_steps=6)
        job = client.submit(request, id=id, label="shot", priority=3)
        assert client.submit(request, id=id, label="shot", priority=3).id == job.id == id, "again is the same job"
        assert (job.label, job.client, job.priority) == ("shot", "test", 3)
        seen = list(client.follow(id))
        assert [job.state for job in seen][-1] == "done"
        assert any(job.progress and job.progress.phase == "denoise" for job in seen)
        video = client.download(id, "video.mp4", tmp_path / "new folder" / "real.mp4")
        assert video.read_bytes() == server.client.get(f"/v1/jobs/{id}/video.mp4").content
        assert [path.name for path in video.parent.iterdir()] == ["real.mp4"]
        assert next(iter(client.jobs())).id == id
        assert id in [job.id for job in client.jobs(["done"])]
        assert client.wait(id).result.video.endswith("video.mp4")
        assert {model.id: model.default for model in client.models()}["nano"]
        assert client.health().workers[0].state in ("idle", "busy")
        assert "hvg3d_jobs" in client.metrics()
        client.delete(id)
        with pytest.raises(NotFound, match="there is no job"):
            client.job(id)


def test_queue(server: RunningServer, clip: str) -> None:
    with Client.at_home(server.home) as client:
        long = client.submit(GenerationRequest(clip, num_inference_steps=1000))
        server.wait(long.id, "running")
        first, second = (client.submit(GenerationRequest(clip, seed=n, num_inference_steps=1)) for n in range(2))
        assert client.move(second.id, 0).queue_position == 0
        assert client.job(first.id).queue_position == 1
        assert client.cancel(first.id).state == "cancelled"
        client.cancel(long.id)
        with pytest.raises(JobFailed, match="cancelled"):
            client.wait(long.id)
        assert client.wait(second.id).state == "done"
        assert [page.id for page in client.page(limit=2).jobs] == [second.id, first.id]


def test_failures_carry_what_to_do(server: RunningServer, clip: str) -> None:
    with Client.at_home(server.home) as client:
        with pytest.raises(Refused, match="there is no model 'gpt'; use one of") as caught:
            client.submit(GenerationRequest(clip, model="gpt"))
        assert (caught.value.code, caught.value.field, caught.value.status) == ("unknown_model", "request.model", 422)
        with pytest.raises(JobFailed, match="flux capacitor is missing"):
            client.wait(client.submit(GenerationRequest(clip, prompt="bug")).id)
        with pytest.raises(NotFound, match="there is no job"):
            client.download("none", "video.mp4", server.home / "none.mp4")
        assert not (server.home / "none.mp4").exists()


def test_addresses_that_lead_nowhere(server: RunningServer, tmp_path: Path) -> None:
    url, token = server.handshake["url"], server.handshake["token"]
    with pytest.raises(Unauthorized, match="wrong token; take the token from the file 'token'"):
        Client(url, "wrong-token-entirely").health()
    for bad in ("nonsense", "ftp://x", "http://x:y"):
        with pytest.raises(ClientError, match="write http://HOST:PORT"):
            Client(bad, token).health()
    with pytest.raises(ClientError):
        Client(url, "two\nlines").health()
    with pytest.raises(Unreachable, match="no server runs in"):
        Client.at_home(tmp_path, patience=0).health()
    with pytest.raises(Unreachable, match="start it with 'hvg3d serve'"):
        Client("http://127.0.0.1:9", token, patience=0).health()


def test_an_upload_over_a_line_that_breaks(tmp_path: Path) -> None:
    """Three connections are cut in the middle: the clip arrives whole, and next to nothing is sent twice."""
    data = np.random.default_rng(3).bytes(12_000_000)
    with (
        RunningServer(tmp_path / "home") as server,
        FlakyLine(server.handshake["port"], up=[3_000_000, 3_000_000, 3_000_000]) as line,
        Client(f"http://127.0.0.1:{line.port}", server.handshake["token"]) as client,
    ):
        assert client.upload(data) == sha256(data)
        assert line.cuts == 3
        assert (server.home / "clips" / f"{sha256(data)}.safetensors").read_bytes() == data
        # Each cut loses at most what was in the sockets' buffers on the way.
        assert line.carried_up < 1.3 * len(data)


def test_a_download_over_a_line_that_breaks(server: RunningServer, clip: str, tmp_path: Path) -> None:
    job = server.submit(clip, num_inference_steps=1)
    address = server.wait(job)["result"]["video"]
    whole = server.client.get(address).content
    with (
        FlakyLine(server.handshake["port"], down=[900, len(whole) // 2, 700]) as line,
        Client(f"http://127.0.0.1:{line.port}", server.handshake["token"]) as client,
    ):
        target = client.download(job, "video.mp4", tmp_path / "video.mp4")
        assert line.cuts >= 2
    assert target.read_bytes() == whole


def test_two_clients_send_the_same_clip(tmp_path: Path) -> None:
    """At the same time, over lines that break: both succeed, the clip is there once, and they do not fight for ever."""
    data = np.random.default_rng(4).bytes(6_000_000)
    results: list[str] = []
    with RunningServer(tmp_path / "home") as server:

        def run(cuts: list[int]) -> None:
            with (
                FlakyLine(server.handshake["port"], up=cuts) as line,
                Client(f"http://127.0.0.1:{line.port}", server.handshake["token"]) as client,
            ):
                results.append(client.upload(data))

        threads = [threading.Thread(target=run, args=(cuts,)) for cuts in ([2_000_000], [3_000_000, 1_500_000])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [sha256(data)] * 2
        assert (server.home / "clips" / f"{sha256(data)}.safetensors").read_bytes() == data
        assert list((server.home / "uploads").iterdir()) == []


def test_following_a_job_over_a_restart(tmp_path: Path) -> None:
    """The server is killed while a client follows; it comes back on another port, and the client sees the end."""
    with (
        RunningServer(tmp_path / "home", step_seconds=0.1) as server,
        Client.at_home(server.home, patience=60) as client,
    ):
        id = client.submit(GenerationRequest(client.upload(tiny_clip()), num_inference_steps=20)).id
        states: list[str] = []
        for job in client.follow(id):
            states.append(job.state)
            if job.progress and job.progress.step == 3 and server.process.poll() is None and "back" not in states:
                port = server.handshake["port"]
                server.kill()
                threading.Timer(1.0, server.start).start()
                states.append("back")
        assert states[-1] == "done"
        assert client.job(id).attempt == 2
        assert server.handshake["port"] != port


def test_the_command(server: RunningServer, tmp_path: Path) -> None:
    """hvg3d submit: by home and by address, with a token from a file or the environment; errors are one line."""
    path = tmp_path / "shot.clip.safetensors"
    path.write_bytes(tiny_clip(seed=12))

    def hvg3d(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hvg3d_core.cli.main", "submit", str(path), *arguments]
        env = {key: value for key, value in os.environ.items() if key != "HVG3D_TOKEN"} | environment
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)

    done = hvg3d("--server", str(server.home), "--out", str(tmp_path / "a"), "--seed", "4", "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a" / "metadata.json").read_text())["seed"] == 4
    assert (tmp_path / "a" / "video.mp4").stat().st_size > 0
    url = server.handshake["url"]
    token = server.handshake["token"]
    done = hvg3d("--server", url, "--no-wait", "--label", "by address", HVG3D_TOKEN=token)
    assert done.returncode == 0, done.stderr
    assert server.wait(done.stdout.split()[1])["label"] == "by address"
    for arguments, words in (
        (("--server", url, "--token-file", "none"), "--token-file none: No such file"),
        (("--server", str(server.home), "--model", "gpt"), "there is no model 'gpt'"),
    ):
        failed = hvg3d(*arguments)
        assert failed.returncode == 1
        assert failed.stderr.startswith("hvg3d: ") and words in failed.stderr
        assert "Traceback" not in failed.stderr


def test_importing_the_client_is_light() -> None:
    code = "import sys, hvg3d_core.client; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'fastapi')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
