# SPDX-License-Identifier: Apache-2.0
"""Uploads that break off, start again, overtake each other, and do not fit."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from .serverkit import RunningServer, sha256
from .test_requests import error_of


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def send_part(server: RunningServer, data: bytes, count: int) -> socket.socket:
    """Begin a PUT of all of ``data``, send ``count`` bytes of it, and leave the connection open."""
    line = socket.create_connection(("127.0.0.1", server.handshake["port"]), timeout=20)
    head = (
        f"PUT /v1/clips/{sha256(data)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        f"Authorization: Bearer {server.handshake['token']}\r\n\r\n"
    )
    line.sendall(head.encode() + data[:count])
    return line


def offset(server: RunningServer, data: bytes) -> int:
    answer = server.client.head(f"/v1/clips/{sha256(data)}")
    assert answer.status_code == 404
    return int(answer.headers["upload-offset"])


def wait_for_offset(server: RunningServer, data: bytes, wanted: int) -> None:
    end = time.monotonic() + 10
    while offset(server, data) != wanted:
        assert time.monotonic() < end, offset(server, data)
        time.sleep(0.02)


def go_on(server: RunningServer, data: bytes, start: int, end: int | None = None) -> httpx.Response:
    headers = {"Upload-Offset": str(start), "Upload-Length": str(len(data))}
    return server.client.patch(f"/v1/clips/{sha256(data)}", content=data[start:end], headers=headers)


def test_a_broken_upload_goes_on_where_it_stopped(server: RunningServer) -> None:
    """Every byte that arrived before the connection broke counts, and the whole is what was meant."""
    data = noise(150_000, 1)
    send_part(server, data, 70_000).close()
    wait_for_offset(server, data, 70_000)
    wrong = go_on(server, data, 60_000)
    assert error_of(wrong, 409)["code"] == "wrong_offset"
    assert wrong.headers["upload-offset"] == "70000"
    more = go_on(server, data, 70_000, 100_000)
    assert (more.status_code, more.json()["bytes"], more.headers["upload-offset"]) == (202, 100_000, "100000")
    last = go_on(server, data, 100_000)
    assert (last.status_code, last.json()["bytes"]) == (201, 150_000)
    assert (server.home / "clips" / f"{sha256(data)}.safetensors").read_bytes() == data
    assert list((server.home / "uploads").glob(f"{sha256(data)}.*")) == []
    assert go_on(server, data, 100_000).json()["created"] is False, "again is no error"


def test_a_patch_takes_over_from_a_dead_connection(server: RunningServer) -> None:
    """A client whose cable was pulled comes back at once: the server has not noticed, and need not."""
    data = noise(150_000, 2)
    half_open = send_part(server, data, 50_000)
    end = time.monotonic() + 10
    while not list((server.home / "uploads").glob(f"{sha256(data)}.*")):  # its bytes are not on disk yet
        assert time.monotonic() < end
        time.sleep(0.02)
    first = go_on(server, data, 0)
    if first.status_code == 409:
        first = go_on(server, data, int(first.headers["upload-offset"]))
    assert first.status_code == 201
    assert b"upload_taken_over" in half_open.recv(10_000)
    half_open.close()
    assert (server.home / "clips" / f"{sha256(data)}.safetensors").read_bytes() == data


def test_two_whole_uploads_do_not_disturb_each_other(server: RunningServer) -> None:
    data = noise(100_000, 3)
    slow = send_part(server, data, 40_000)
    assert server.client.put(f"/v1/clips/{sha256(data)}", content=data).status_code == 201
    slow.sendall(data[40_000:])
    assert slow.recv(10_000).startswith(b"HTTP/1.1 20")
    slow.close()
    assert list((server.home / "uploads").glob(f"{sha256(data)}.*")) == []


def test_a_wrong_rest_is_thrown_away(server: RunningServer) -> None:
    data = noise(80_000, 4)
    send_part(server, data, 30_000).close()
    wait_for_offset(server, data, 30_000)
    headers = {"Upload-Offset": "30000", "Upload-Length": "80000"}
    answer = server.client.patch(f"/v1/clips/{sha256(data)}", content=bytes(50_000), headers=headers)
    assert error_of(answer, 422)["code"] == "hash_mismatch"
    assert offset(server, data) == 0
    assert server.client.put(f"/v1/clips/{sha256(data)}", content=data).status_code == 201


def test_a_rest_that_is_too_long_is_refused(server: RunningServer) -> None:
    """Neither a declared nor a real size beyond the limit (0.2 MiB here) gets in by way of PATCH."""
    data = noise(80_000, 5)
    address = f"/v1/clips/{sha256(data)}"
    headers = {"Upload-Offset": "0", "Upload-Length": "300000"}
    assert error_of(server.client.patch(address, content=data, headers=headers), 413)["code"] == "clip_too_large"
    headers = {"Upload-Offset": "0", "Upload-Length": "80000"}
    assert error_of(server.client.patch(address, content=bytes(300_000), headers=headers), 413)
    assert offset(server, data) == 0


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({}, "header.upload-offset"),
        ({"Upload-Offset": "5", "Upload-Length": "4"}, "Upload-Offset"),
        ({"Upload-Offset": "-1", "Upload-Length": "4"}, "header.upload-offset"),
        ({"Upload-Offset": "0", "Upload-Length": "9" * 30}, "header.upload-length"),
    ],
)
def test_bad_headers_are_named(server: RunningServer, headers: dict[str, str], field: str) -> None:
    answer = server.client.patch(f"/v1/clips/{'0' * 64}", content=b"x", headers=headers)
    assert error_of(answer, 422)["field"] == field


def test_an_upload_survives_a_restart_and_ends_after_a_day(tmp_path: Path) -> None:
    data, old = noise(90_000, 6), noise(90_000, 7)
    with RunningServer(tmp_path / "home") as server:
        for piece in (data, old):
            send_part(server, piece, 45_000).close()
            wait_for_offset(server, piece, 45_000)
        server.kill()
        forgotten = next((server.home / "uploads").glob(f"{sha256(old)}.*"))
        os.utime(forgotten, (time.time() - 90_000,) * 2)
        server.start()
        assert offset(server, old) == 0
        assert go_on(server, data, 45_000).status_code == 201
