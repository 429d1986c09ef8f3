# SPDX-License-Identifier: Apache-2.0
"""Clients that never finish what they began do not keep their place."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request

from server.errors import install_error_handlers
from server.gate import BodyLimits, Gate
from server.protocol import PatientProtocol
from server.security import HostCheck
from server.session import Sessions

TOKEN = "a-token-of-some-length"


class Hasty(PatientProtocol):
    head_seconds = 0.6


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with the real gate and protocol, and little patience: 0.6 s for a head, 0.5 s a pause, 1 s a body."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/v1/jobs")
    async def post(request: Request) -> int:
        return len(await request.body())

    @app.put("/v1/clips/{sha256}")
    async def put(sha256: str, request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @app.get("/v1/slow")
    async def slow() -> str:
        await asyncio.sleep(1.5)
        return "worth waiting for"

    app.add_middleware(
        Gate,
        token=TOKEN,
        token_path=Path("token"),
        hosts=HostCheck("127.0.0.1", []),
        sessions=Sessions(TOKEN),
        body=BodyLimits(1000, 0.5, 1.0),
    )
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Hasty, ws="none", log_config=None, timeout_keep_alive=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield sock.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def begin(port: int, text: str) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=10)
    line.sendall(text.replace("\n", "\r\n").encode())
    return line


def head(request: str, length: int) -> str:
    return f"{request} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {TOKEN}\nContent-Length: {length}\n\n"


def drip(line: socket.socket, piece: bytes, seconds: float) -> tuple[bytes, float]:
    """Send ``piece`` every 0.2 s for at most ``seconds``: (what came back, when the server hung up)."""
    started = time.monotonic()
    line.settimeout(0.2)
    answer = b""
    while time.monotonic() - started < seconds:
        try:
            line.sendall(piece)
            data = line.recv(10_000)
        except TimeoutError:
            continue
        except OSError:
            break
        if not data:
            break
        answer += data
    return answer, time.monotonic() - started


@pytest.mark.parametrize("start", ["", "GET /v1/health HTTP/1.1\nHost: local"])
def test_a_head_that_never_ends(port: int, start: str) -> None:
    """Neither silence nor a header byte now and then (slow loris) holds a connection beyond its time."""
    answer, seconds = drip(begin(port, start), b"x" if start else b"", 5)
    assert answer == b""
    assert 0.4 < seconds < 2.5


def test_a_body_that_stops(port: int) -> None:
    answer, seconds = drip(begin(port, head("POST /v1/jobs", 100)), b"", 5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    assert seconds < 2.5, "and the connection is closed"


def test_a_body_that_drips(port: int) -> None:
    """A byte every 0.2 s is no pause, but the whole must come within its time."""
    answer, seconds = drip(begin(port, head("POST /v1/jobs", 100)), b"x", 5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert 0.8 < seconds < 3


def test_an_upload_may_take_its_time_but_not_stop(port: int) -> None:
    line = begin(port, head(f"PUT /v1/clips/{'0' * 64}", 10))
    answer, _ = drip(line, b"x", 2.5)
    assert answer.startswith(b"HTTP/1.1 200"), "10 bytes in 2 s are slow, but steady"
    answer, _ = drip(begin(port, head(f"PUT /v1/clips/{'0' * 64}", 10)), b"", 5)
    assert answer.startswith(b"HTTP/1.1 408")


def test_the_server_may_take_its_time(port: int) -> None:
    line = begin(port, head("GET /v1/slow", 0))
    line.settimeout(10)
    assert b"worth waiting for" in line.recv(10_000) + line.recv(10_000)
