# SPDX-License-Identifier: Apache-2.0
"""What the server's notes promise about refusals and about clips, held against its source and its behaviour."""

from __future__ import annotations

import ast
import hmac
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server import gate
from server.errors import install_error_handlers
from server.logs import Access
from server.security import HostCheck
from server.session import Sessions

from .serverkit import ROOT, RunningServer, tiny_clip
from .test_requests import error_of
from .test_uploads import noise, send_part

SOURCES = sorted((ROOT / "server").rglob("*.py"))
READER = sorted((ROOT / "hvg3d_core" / "conditions").glob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_code_is_in_the_notes() -> None:
    """And the notes have none that is not in the source."""
    source = "".join(path.read_text("utf-8") for path in SOURCES)
    used = set(re.findall(r'(?:ApiError|error_body|failure)\(\s*(?:\w+,\s*)?"([a-z_0-9]+)"', source))
    used |= set(re.findall(r'\(\s*"([a-z_]+)", "GET /v1/openapi', source)) | {"http_error", "worker_cannot_start"}
    used.remove("upload_broken")  # nobody is left to be told
    notes = (ROOT / "server" / "README.md").read_text("utf-8")
    listed = set(re.findall(r"`([a-z_0-9]+)`", notes[notes.index("## Errors") : notes.index("## Parts")]))
    listed -= {"error", "log"}
    assert listed == used


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Neither in the server nor in the reader of clips is there a call that runs what it reads."""
    for path in [*SOURCES, *READER]:
        text = path.read_text("utf-8")
        assert not re.search(r"^\s*(?:import|from)\s+(?:pickle|marshal|shelve|dill|joblib|yaml)\b", text, re.M), path
        for name, call in calls(path):
            assert name not in ("eval", "exec", "compile", "torch.load", "np.load", "os.system"), (path, name)
            assert not any(word.arg in ("shell", "allow_pickle") for word in call.keywords), (path, name)


def test_only_workers_read_clips(server: RunningServer) -> None:
    """By the source: no other module of the server calls a reader. By behaviour: any bytes are stored unseen."""
    readers = {"load_clip", "clip_from_bytes", "check_limits"}
    for path in SOURCES:
        if path.name not in ("worker.py", "backend.py"):
            used = {name.rpartition(".")[2] for name, _ in calls(path)} & readers
            assert not used, (path, used)
    assert server.upload(b"\x80\x04 no clip at all")


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right or wrong, long or short: always by hmac.compare_digest, on the whole token."""
    compared: list[tuple[bytes, bytes]] = []

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    real = hmac.compare_digest
    monkeypatch.setattr(gate.hmac, "compare_digest", spy)
    token = "a-token-of-some-length"
    app = FastAPI()
    app.add_middleware(
        gate.Gate,
        token=token,
        token_path=Path("token"),
        hosts=HostCheck("127.0.0.1", ["testserver"]),
        sessions=Sessions(token),
        body=gate.BodyLimits(1000, 5, 5),
    )
    client = TestClient(app)
    for given in ("x", token[:-1] + "x", token):
        client.get("/v1/x", headers={"Authorization": f"Bearer {given}"})
    assert compared == [(given.encode(), token.encode()) for given in ("x", token[:-1] + "x", token)]


def test_a_fault_of_the_server_is_told_without_its_inside() -> None:
    """500: the number under which the log has the rest; no message, no path, no line of code."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/v1/fault")
    async def fault() -> None:
        raise RuntimeError("secret in /home/somebody")

    app.add_middleware(Access, observe=lambda *_: None)
    answer = TestClient(app, raise_server_exceptions=False).get("/v1/fault")
    error = error_of(answer, 500)
    assert error["code"] == "internal"
    assert "RuntimeError" in error["message"]
    assert "secret" not in answer.text and "somebody" not in answer.text
    assert re.search(r"look for [0-9a-f]{12} in the server's log", error["remedy"])


def test_codes_that_no_other_test_names(server: RunningServer, clip: str) -> None:
    def submit(**request: object) -> dict:
        body = {"id": "123e4567-e89b-12d3-a456-426614174999", "request": {"clip": clip, **request}}
        return error_of(server.client.post("/v1/jobs", json=body), 422)

    assert submit(clip="0" * 64)["code"] == "clip_not_found"
    assert submit(model="das")["code"] == "model_not_installed"
    assert submit(seed=-1)["code"] == "invalid_request"
    assert server.client.head(f"/v1/clips/{'0' * 64}").status_code == 404
    assert error_of(server.client.get("/v1/session"), 404)["code"] == "no_session"
    job = server.submit(clip, num_inference_steps=1)
    server.wait(job)
    (server.home / "jobs" / job / "result" / "scene.mp4").unlink(missing_ok=True)
    assert error_of(server.client.get(f"/v1/jobs/{job}/scene.mp4"), 404)["code"] == "no_scene"


def test_no_preview_yet(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home", step_seconds=30) as server:
        job = server.submit(server.upload(tiny_clip()))
        server.wait(job, "running")
        error = error_of(server.client.get(f"/v1/jobs/{job}/preview.jpg"), 409)
        assert error["code"] == "no_preview_yet"


def test_a_broken_upload_is_counted_and_no_fault(server: RunningServer) -> None:
    data = noise(50_000, 99)
    send_part(server, data, 20_000).close()
    for _ in range(200):
        if 'hvg3d_uploads_total{outcome="broken"}' in (text := server.client.get("/v1/metrics").text):
            break
    assert 'hvg3d_uploads_total{outcome="broken"}' in text
    assert "ClientDisconnect" not in (server.home / "test.log").read_text()
