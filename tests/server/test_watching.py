# SPDX-License-Identifier: Apache-2.0
"""What the server lets its operator see: logs with job ids, metrics, probes."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.logs import TextFormatter, set_up

from .serverkit import RunningServer, tiny_clip


def samples(server: RunningServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The metrics as Prometheus' own parser reads them: (name, labels) -> value."""
    answer = server.client.get("/v1/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_what_happens(tmp_path: Path) -> None:
    """After one job that was done, one that failed and a request that was refused, each is found where it belongs."""
    with RunningServer(tmp_path / "home") as server:
        clip = server.upload(tiny_clip())
        server.wait(server.submit(clip, num_inference_steps=2))
        server.wait(server.submit(clip, prompt="bug"))
        httpx.get(server.handshake["url"] + "/v1/jobs")
        end = time.monotonic() + 10
        done = ("hvg3d_job_run_seconds_count", (("model", "nano"), ("state", "done")))
        failed = ("hvg3d_job_run_seconds_count", (("model", "nano"), ("state", "failed")))
        while not {done, failed} <= (found := samples(server)).keys() and time.monotonic() < end:
            time.sleep(0.1)
        assert found[done] == found[failed] == 1
        took = server.get("/v1/jobs")["jobs"][1]
        seconds = took["finished_at"] - took["started_at"]
        assert found["hvg3d_job_run_seconds_sum", done[1]] == pytest.approx(seconds)
        assert found["hvg3d_job_queue_seconds_count", (("model", "nano"),)] == 2
        assert found["hvg3d_jobs", (("state", "done"),)] == 1
        assert found["hvg3d_jobs", (("state", "failed"),)] == 1
        assert found["hvg3d_jobs", (("state", "queued"),)] == 0
        assert found["hvg3d_workers", (("state", "idle"),)] == 1
        assert found["hvg3d_uploads_total", (("outcome", "stored"),)] == 1
        assert found["hvg3d_upload_bytes_total", ()] == len(tiny_clip())
        assert found["hvg3d_disk_free_bytes", ()] > 0
        refused = (("method", "GET"), ("route", "none"), ("status", "401"))
        assert found["hvg3d_http_requests_total", refused] == 1
        by_route = (("method", "POST"), ("route", "/v1/jobs"), ("status", "201"))
        assert found["hvg3d_http_requests_total", by_route] == 2
        assert found["process_resident_memory_bytes", ()] > 1e6


def test_strangers_cannot_grow_the_metrics(server: RunningServer) -> None:
    """Methods and addresses that somebody makes up share one label: each series takes memory for ever."""
    for number in range(20):
        httpx.request(f"BREW{number}", f"{server.handshake['url']}/v1/made-up-{number}")
    labels = {labels for name, labels in samples(server) if name == "hvg3d_http_requests_total"}
    assert (("method", "other"), ("route", "none"), ("status", "401")) in labels
    assert not [label for label in labels if "BREW" in str(label) or "made-up" in str(label)]


def test_metrics_need_the_token(server: RunningServer) -> None:
    assert httpx.get(server.handshake["url"] + "/v1/metrics").status_code == 401


def test_probes_need_no_token_and_tell_nothing(server: RunningServer) -> None:
    server.worker_pid()
    url = server.handshake["url"]
    assert httpx.get(url + "/v1/health/live").json() == {"status": "alive"}
    assert httpx.get(url + "/v1/health/ready").json() == {"status": "ready", "reasons": []}
    assert httpx.get(url + "/v1/health/live", headers={"Host": "evil.example"}).status_code == 421


def test_ready_is_not_alive(tmp_path: Path) -> None:
    """A server whose disk is full is alive but not ready; only those with the token hear why."""
    with RunningServer(tmp_path / "home", "--min-free-mib", "1e9") as server:
        server.worker_pid()
        assert server.client.get("/v1/health/live").status_code == 200
        answer = server.client.get("/v1/health/ready")
        assert answer.status_code == 503
        assert "less than the reserve" in answer.json()["reasons"][0]
        stranger = httpx.get(server.handshake["url"] + "/v1/health/ready")
        assert (stranger.status_code, stranger.json()) == (503, {"status": "not ready", "reasons": []})


def test_without_a_worker_it_is_not_ready(tmp_path: Path) -> None:
    """From a worker's death until the next one has started, the reason is how it ended."""
    with RunningServer(tmp_path / "home") as server:
        os.kill(server.worker_pid(), signal.SIGKILL)
        seen = []
        end = time.monotonic() + 20
        while not (seen and seen[-1] == 200) and time.monotonic() < end:
            answer = server.client.get("/v1/health/ready")
            if answer.status_code == 503:
                assert "no worker is running; the last one ended with signal 9 (SIGKILL" in answer.json()["reasons"][0]
            if answer.status_code == 503 or 503 in seen:
                seen.append(answer.status_code)
        assert {503, 200} == set(seen)


def test_json_logs_name_the_job_and_no_secret(tmp_path: Path) -> None:
    """Every line is one JSON object; those about a job can be found by its id; neither token nor prompt is in any."""
    prompt = "a secret hand\nforging a line"
    with RunningServer(tmp_path / "home", "--log-format", "json", "--log-level", "debug") as server:
        token = server.handshake["token"]
        job = server.submit(server.upload(tiny_clip()), prompt=prompt)
        server.wait(job)
        server.client.get("/v1/health?token=in-the-query")
        refused = httpx.get(server.handshake["url"] + "/v1/health", headers={"Authorization": "Bearer guess-guess"})
        server.stop()
    lines = [json.loads(line) for line in (tmp_path / "home" / "test.log").read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    about = [line for line in lines if line.get("job") == job]
    assert any(line["message"].endswith(": done") for line in about), about
    assert any(line["logger"] == "hvg3d.access" and line["status"] == 200 for line in about)
    denied = next(line for line in lines if line.get("request") == refused.headers["x-request-id"])
    assert (denied["status"], denied["by"], denied["path"]) == (401, "refused", "/v1/health")
    text = json.dumps(lines)
    for secret in (token, "secret hand", "in-the-query", "guess-guess"):
        assert secret not in text


def test_a_text_line_stays_one_line() -> None:
    out = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up("text", "info", out)
        logging.getLogger("hvg3d.server").info("first\nsecond\r%s", "x")
    finally:
        root.handlers[:], root.level = handlers, level
    assert out.getvalue().count("\n") == 1
    assert "first\\nsecond\\rx" in out.getvalue()
    assert isinstance(TextFormatter(), logging.Formatter)
