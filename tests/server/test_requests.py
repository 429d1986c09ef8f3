# SPDX-License-Identifier: Apache-2.0
"""Who is let in, and what a request must look like."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.security import HostCheck

from .serverkit import ROOT, RunningServer, sha256


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert {"code", "message", "field", "remedy"} <= set(body["error"])
    return body["error"]


@pytest.mark.parametrize(
    ("header", "code", "begins"),
    [
        ("Bearer wrong-token-entirely", "wrong_token", "wrong token: copy it from "),
        (None, "no_token", "no token: "),
        ("Basic abc", "no_token", "no token: "),
    ],
)
def test_token(server: RunningServer, header: str | None, code: str, begins: str) -> None:
    """Nothing answers without the token, not even the description; the message says where the token is."""
    headers = {"Authorization": header} if header else {}
    for method, path in (
        ("GET", "/v1/health"),
        ("GET", "/v1/openapi.json"),
        ("PUT", "/v1/clips/x"),
        ("GET", "/v1/nowhere"),
        ("GET", "/v1"),
    ):
        answer = httpx.request(method, server.handshake["url"] + path, headers=headers)
        error = error_of(answer, 401)
        assert error["code"] == code
        assert error["message"].startswith(begins)
        assert f"{server.home / 'token'} into the add-on's preferences" in error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "10.0.0.1", "localhost.evil.example"])
def test_other_host_names_are_refused(server: RunningServer, host: str) -> None:
    """DNS rebinding: a page's own name in the Host header gets nothing, token or not."""
    assert error_of(server.client.get("/v1/health", headers={"Host": host}), 421)["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:99"])
def test_own_host_names_are_taken(server: RunningServer, host: str) -> None:
    assert server.client.get("/v1/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("192.168.0.7:80", True),
        ("[fe80::1]:80", True),
        (socket.gethostname(), True),
        ("gpu.example", True),
        ("evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_host_names_on_a_network(header: str, allowed: bool) -> None:
    """A server on all interfaces answers to any literal address, its machine's name and the names it was given."""
    assert HostCheck("0.0.0.0", ["GPU.example"])(header) is allowed


def test_pages_of_other_origins_are_refused(server: RunningServer) -> None:
    error = error_of(server.client.get("/v1/health", headers={"Origin": "http://evil.example"}), 403)
    assert error["code"] == "origin_not_allowed"
    assert server.client.get("/v1/health", headers={"Origin": server.handshake["url"]}).status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file modes")
def test_private_files(server: RunningServer) -> None:
    for name in ("token", "server.json"):
        assert stat.S_IMODE((server.home / name).stat().st_mode) == 0o600
    assert (server.home / "token").read_text().strip() == server.handshake["token"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"num_frames": 50}, "request.num_frames", "use 49 or 57"),
        ({"num_inference_steps": 0}, "request.num_inference_steps", "greater than or equal to 1"),
        ({"guidance_scale": 51}, "request.guidance_scale", "less than or equal to 50"),
        ({"guidance_scale": "6"}, "request.guidance_scale", "valid number"),
        ({"seed": -1}, "request.seed", "greater than or equal to 0"),
        ({"control_scale": 11}, "request.control_scale", "less than or equal to 10"),
        ({"prompt": "x" * 4001}, "request.prompt", "4000"),
        ({"clip": "../../etc/passwd"}, "request.clip", "pattern"),
        ({"clip": "0" * 64}, "request.clip", "is not on the server"),
        ({"model": "gpt"}, "request.model", "there is no model 'gpt'"),
        ({"model": "das"}, "request.model", "not on this server"),
        ({"step": 3}, "request.step", "does not exist"),
    ],
)
def test_bad_requests_name_the_field(
    server: RunningServer, clip: str, change: dict[str, Any], field: str, words: str
) -> None:
    body = {"id": str(uuid.uuid4()), "request": {"clip": clip, **change}}
    error = error_of(server.client.post("/v1/jobs", json=body), 422)
    assert error["field"] == field
    assert words in error["message"]
    assert error["remedy"]
    assert server.client.get(f"/v1/jobs/{body['id']}").status_code == 404


def test_other_bad_requests(server: RunningServer, clip: str) -> None:
    post = server.client.post
    assert error_of(post("/v1/jobs", json={"id": "7", "request": {"clip": clip}}), 422)["field"] == "id"
    assert error_of(post("/v1/jobs", json={"request": {"clip": clip}}), 422)["field"] == "id"
    assert (
        error_of(post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}), 422)["code"]
        == "invalid_json"
    )
    assert error_of(post("/v1/jobs", content=bytes(2_000_000)), 413)["code"] == "body_too_large"
    chunks = (bytes(100_000) for _ in range(20))
    assert error_of(post("/v1/jobs", content=chunks), 413)["code"] == "body_too_large"
    assert error_of(server.client.get("/v1/jobs/nobody"), 404)["code"] == "job_not_found"
    assert error_of(server.client.get(f"/v1/jobs/{uuid.uuid4()}/video.mp4"), 404)["code"] == "job_not_found"
    assert error_of(server.client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(server.client.delete("/v1/health"), 405)["code"] == "method_not_allowed"
    assert error_of(server.client.put("/v1/clips/..%2f..%2ftoken", content=b"x"), 404)
    assert error_of(server.client.put("/v1/clips/XYZ", content=b"x"), 422)["code"] == "invalid_sha256"
    assert error_of(server.client.get("/v1/events?since=-1"), 422)["field"] == "since"
    assert error_of(server.client.get("/v1/jobs?before=1.2.3,x"), 422)["field"] == "before"


def test_health_and_models(server: RunningServer) -> None:
    health = server.get("/v1/health")
    assert health["status"] == "ok"
    assert health["instance"] == server.handshake["instance"]
    assert health["workers"][0]["pid"] == server.worker_pid()
    models = server.get("/v1/models")["models"]
    shown = {m["id"]: (m["default"], m["installed"]) for m in models}
    assert shown["nano"] == (True, True)
    assert shown["das"] == (False, False)
    assert "/secret" not in str(models), "where models lie is not told"
    paths = server.get("/v1/openapi.json")["paths"]
    assert {"/v1/jobs/{id}/move", "/v1/events", "/v1/clips/{sha256}"} <= set(paths)


def test_server_process_has_no_torch(server: RunningServer) -> None:
    """Neither after importing every module with the real backend's, nor mapped in the running server."""
    code = (
        "import sys, server.__main__, server.backend, server.worker; server.backend.list_models(); "
        "sys.exit(any(m.split('.')[0] in ('torch', 'diffusers', 'transformers') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    maps = Path(f"/proc/{server.process.pid}/maps")
    if maps.exists():
        assert "torch" not in maps.read_text()


def test_upload_address_is_the_hash_only(server: RunningServer) -> None:
    data = b"anything"
    assert server.client.put(f"/v1/clips/{sha256(data).upper()}", content=data).status_code == 422
