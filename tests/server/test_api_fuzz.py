# SPDX-License-Identifier: Apache-2.0
"""Requests made up from the published schema, right and wrong: never a 5xx, always an answer that was announced."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from server.openapi import FILE

from .serverkit import RunningServer, tiny_clip

document = json.loads(FILE.read_text("utf-8"))
del document["security"]  # every request here has the token; what happens without is tested in test_requests
schema = schemathesis.openapi.from_dict(document).exclude(path="/v1/events")  # its answer has no end: see below
LEFT_OUT = {
    "positive_data_acceptance",  # right in form, and of a clip that is not here: 422
    "ignored_auth",  # tested by hand, with every way in
    "unsupported_method",  # the same
}
CHECKED = [check for name in CHECKS.get_all_names() if name not in LEFT_OUT for check in CHECKS.get_by_names([name])]
OPERATIONS = [operation.ok() for operation in schema.get_all_operations()]
SLOW = settings(
    max_examples=250,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
answers: Counter[int] = Counter()
QUICK = settings(SLOW, max_examples=12, derandomize=True)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    arguments = ("--max-clip-mib", "0.2", "--max-queued", "50")
    with RunningServer(tmp_path_factory.mktemp("fuzz"), *arguments, step_seconds=0.001) as running:
        yield running
        print(sorted(answers.items()))
        if sum(answers.values()) > 200:  # not where only one test was asked for
            assert {200, 201, 404, 409, 422} <= set(answers), "the requests no longer reach what they should"
        health = running.get("/v1/health")
        assert health["workers"][0]["restarts"] == 0, "no request may bring a worker down"
        log = (running.home / "test.log").read_text()
        assert "Traceback" not in log, log[-4000:]


@pytest.fixture(scope="module")
def known(target: RunningServer) -> dict[str, str]:
    """Path parameters that exist, so that not every request ends with 404."""
    clip = target.upload(tiny_clip())
    job = target.submit(clip, num_inference_steps=1)
    target.wait(job)
    return {"sha256": clip, "id": job}


def send(target: RunningServer, case: schemathesis.Case) -> None:
    answer = case.call_and_validate(
        base_url=target.handshake["url"],
        headers={"Authorization": f"Bearer {target.handshake['token']}"},
        checks=CHECKED,
        timeout=20,
    )
    answers[answer.status_code] += 1


def fuzz(
    target: RunningServer, known: dict[str, str], operation: schemathesis.schemas.APIOperation, how: settings
) -> None:
    """Right ones, half of them about a clip and a job that there are; and wrong ones as they are made up."""
    right = operation.as_strategy()
    wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @how
    @given(case=right, real=st.booleans())
    def run_right(case: schemathesis.Case, real: bool) -> None:
        if real and case.path_parameters and operation.method.lower() != "delete":
            case.path_parameters = {name: known[name] for name in case.path_parameters}
        body = case.body
        if real and isinstance(body, dict) and isinstance(body.get("request"), dict):
            body["request"]["clip"] = known["sha256"]
        send(target, case)

    @how
    @given(case=wrong)
    def run_wrong(case: schemathesis.Case) -> None:
        send(target, case)

    run_right()
    if operation.path_parameters or operation.query or operation.body:  # else there is nothing to do wrong
        run_wrong()


NAMES = [f"{operation.method.upper()} {operation.path}" for operation in OPERATIONS]


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_made_up_requests(target: RunningServer, known: dict[str, str], operation: object) -> None:
    fuzz(target, known, operation, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_many_made_up_requests(target: RunningServer, known: dict[str, str], operation: object) -> None:
    fuzz(target, known, operation, SLOW)


BIG = "9" * 5000
ODD_BODIES = [
    b'{"id": "\\ud800"}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174000", "label": "\\ud800", "request": {"clip": "CLIP"}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174001", "label": "\\u0000", "request": {"clip": "CLIP"}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174002", "request": {"clip": "CLIP", "prompt": "\\udfff"}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174003", "request": {"clip": "CLIP", "seed": NaN}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174004", "request": {"clip": "CLIP", "guidance_scale": Infinity}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174005", "request": {"clip": "CLIP", "guidance_scale": 1e999}}',
    b'{"id": "123e4567-e89b-12d3-a456-426614174006", "request": {"clip": "CLIP", "seed": ' + BIG.encode() + b"}}",
    b'{"id": "123e4567-e89b-12d3-a456-426614174007", "request": {"clip": "CLIP"}, "request": 1}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"null",
    b"0",
    b'"' + b"x" * 900_000 + b'"',
    b"",
]


@pytest.mark.parametrize("body", ODD_BODIES, ids=range(len(ODD_BODIES)))
def test_odd_bodies(target: RunningServer, known: dict[str, str], body: bytes) -> None:
    """JSON that Python's reader takes, or chokes on, in ways of its own."""
    answer = target.client.post(
        "/v1/jobs",
        content=body.replace(b"CLIP", known["sha256"].encode()),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (201, 400, 422), answer.text
    assert answer.status_code == 201 or {"code", "message"} <= set(answer.json()["error"])
    assert len(answer.content) < 10_000, "the answer repeats the body"


ODD_REQUESTS = [
    "GET /v1/events?since=99999999999999999999 HTTP/1.1",
    "GET /v1/events?since=1&job=%00 HTTP/1.1",
    "GET /v1/events?job=%ff%fe HTTP/1.1",
    "GET /v1/jobs?before=1e999,x HTTP/1.1",
    "GET /v1/jobs?before=" + BIG + ",x HTTP/1.1",
    "GET /v1/jobs?limit=" + BIG + " HTTP/1.1",
    "GET /v1/jobs/%00 HTTP/1.1",
    "GET /v1/jobs/%ed%a0%80/video.mp4 HTTP/1.1",
    "GET /v1/jobs/..%2f..%2f..%2fetc%2fpasswd/video.mp4 HTTP/1.1",
    "GET /v1/../../etc/passwd HTTP/1.1",
    "GET //etc/passwd HTTP/1.1",
    "GET /v1/jobs/" + "a" * 60_000 + " HTTP/1.1",
    "GET http://evil.example/v1/jobs HTTP/1.1",
    "DELETE /v1/jobs/%2e%2e HTTP/1.1",
    "GET /v1/jobs HTTP/9.9",
    "GET /v1/jobs",
    "BREW /v1/jobs HTTP/1.1",
    "GET /v1/jobs HTTP/1.1\nHost: evil.example",
    "GET /v1/jobs HTTP/1.1\nX: " + "y" * 100_000,
    "GET /v1/jobs HTTP/1.1\nCookie: " + "=;" * 5000,
    "GET /v1/jobs HTTP/1.1\nCookie: hvg3d=\xff",
    "GET /v1/jobs HTTP/1.1\nOrigin: http://[",
    "GET /v1/jobs HTTP/1.1\nRange: bytes=" + "0-0," * 5000,
    "GET /v1/jobs HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade",
    "POST /v1/jobs HTTP/1.1\nContent-Length: " + BIG,
    "POST /v1/jobs HTTP/1.1\nContent-Length: -1",
    "POST /v1/jobs HTTP/1.1\nContent-Length: 5\nContent-Length: 6",
    "POST /v1/jobs HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked",
    "POST /v1/jobs HTTP/1.1\nTransfer-Encoding: chunked\n\nFFFFFFFFFFFFFFFF\nx",
    "PUT /v1/clips/" + "0" * 64 + " HTTP/1.1\nContent-Length: 99999999999999999999",
    "PATCH /v1/clips/" + "0" * 64 + " HTTP/1.1\nUpload-Offset: 1e3\nUpload-Length: x",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.parametrize("request_", ODD_REQUESTS, ids=range(len(ODD_REQUESTS)))
def test_odd_requests(target: RunningServer, known: dict[str, str], request_: str) -> None:
    """What no HTTP library would send. The server refuses it or hangs up, and goes on."""
    line = socket.create_connection(("127.0.0.1", target.handshake["port"]), timeout=5)
    head = f"{request_}\nHost: localhost\nAuthorization: Bearer {target.handshake['token']}\nConnection: close\n\n"
    answer = b""
    try:
        line.sendall(head.encode("latin-1").replace(b"\n", b"\r\n"))
        line.shutdown(socket.SHUT_WR)
        while data := line.recv(65536):
            answer += data
            if b"event-stream" in answer:
                break
    except (ConnectionError, TimeoutError):
        pass
    line.close()
    if answer:
        assert answer.startswith(b"HTTP/1.1 "), answer[:100]
        assert answer[9:10] in b"24", answer[:300]
    assert b"root:" not in answer
    assert target.client.get("/v1/health/live").status_code == 200


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    since=st.one_of(st.none(), st.integers(), st.text(max_size=20)),
    last=st.one_of(st.none(), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)),
    job=st.one_of(st.none(), st.text(max_size=40)),
)
def test_event_streams_with_made_up_places(since: object, last: str | None, job: str | None) -> None:
    """Streams answer 200 or say what is wrong with the place where they should begin."""
    target = _target[0]
    params = {name: value for name, value in (("since", since), ("job", job)) if value is not None}
    headers = {} if last is None else {"Last-Event-ID": last}
    with target.client.stream("GET", "/v1/events", params=params, headers=headers) as answer:
        assert answer.status_code in (200, 404, 422), answer.status_code
        if answer.status_code == 200:
            pieces = answer.iter_text()
            assert next(pieces).startswith("retry:")


_target: list[RunningServer] = []


@pytest.fixture(autouse=True)
def _keep_target(target: RunningServer) -> None:
    """Hypothesis' tests take no fixtures that live longer than one example."""
    _target[:] = [target]
