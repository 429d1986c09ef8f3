# SPDX-License-Identifier: Apache-2.0
"""Results as players and browsers fetch them: ranges, conditions, caching."""

from __future__ import annotations

import re

import pytest

from .serverkit import RunningServer
from .test_requests import error_of


@pytest.fixture(scope="module")
def video(server: RunningServer, clip: str) -> tuple[str, bytes]:
    job = server.submit(clip, num_inference_steps=1)
    address = server.wait(job)["result"]["video"]
    return address, server.client.get(address).content


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, None),
        ("bytes=100-", 100, None),
        ("bytes=-20", -20, None),
        ("bytes=10-19", 10, 20),
        ("bytes=10-999999999", 10, None),
        ("BYTES = 3-4", 3, 5),
    ],
)
def test_one_range(server: RunningServer, video: tuple[str, bytes], given: str, start: int, end: int | None) -> None:
    """The bytes asked for, and a Content-Range that says which they are (RFC 9110, 14.4)."""
    address, data = video
    answer = server.client.get(address, headers={"Range": given})
    assert answer.status_code == 206
    assert answer.content == data[start:end]
    first = start % len(data)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(data)}"
    assert answer.headers["accept-ranges"] == "bytes"


def test_several_ranges(server: RunningServer, video: tuple[str, bytes]) -> None:
    address, data = video
    answer = server.client.get(address, headers={"Range": "bytes=0-9,20-29"})
    assert answer.status_code == 206
    boundary = re.fullmatch("multipart/byteranges; boundary=(.+)", answer.headers["content-type"])[1]
    parts = answer.content.split(f"--{boundary}".encode())[1:-1]
    assert [part.split(b"\r\n\r\n", 1)[1][:10] for part in parts] == [data[:10], data[20:30]]


@pytest.mark.parametrize(
    ("given", "status"), [("bytes=99999999-", 416), ("bytes=5-1", 400), ("lines=1-2", 400), ("bytes", 400)]
)
def test_ranges_that_cannot_be(server: RunningServer, video: tuple[str, bytes], given: str, status: int) -> None:
    address, data = video
    answer = server.client.get(address, headers={"Range": given})
    error = error_of(answer, status)
    assert error["code"] == "invalid_range"
    assert f"bytes=0-{len(data) - 1}" in error["remedy"]
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(data)}"


def test_what_was_fetched_is_not_fetched_again(server: RunningServer, video: tuple[str, bytes]) -> None:
    address, data = video
    whole = server.client.get(address)
    assert whole.headers["cache-control"] == "private, max-age=31536000, immutable"
    tag = whole.headers["etag"]
    again = server.client.get(address, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert server.client.get(address, headers={"If-None-Match": '"other"'}).content == data
    same = server.client.get(address, headers={"Range": "bytes=5-", "If-Range": tag})
    assert (same.status_code, same.content) == (206, data[5:])
    changed = server.client.get(address, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, data)


def test_head_tells_the_size(server: RunningServer, video: tuple[str, bytes]) -> None:
    address, data = video
    answer = server.client.head(address)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(data))


def test_a_result_that_is_gone_says_so(server: RunningServer, clip: str) -> None:
    job = server.submit(clip, num_inference_steps=1)
    view = server.wait(job)
    (server.home / "jobs" / job / "result" / "video.mp4").unlink()
    assert error_of(server.client.get(view["result"]["video"]), 404)["code"] == "result_gone"
