# SPDX-License-Identifier: Apache-2.0
"""The preview of a running job, which is replaced while it is being fetched."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
import time
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from server import results
from server.config import Settings
from server.context import build_context
from server.errors import install_error_handlers
from server.files import Home

from .serverkit import RunningServer


def jpeg(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG")
    return data.getvalue()


def test_a_preview_that_is_replaced_meanwhile_arrives_whole(server: RunningServer, clip: str) -> None:
    """Pictures of very different sizes take turns under one name; every answer is one of them, to the last byte."""
    job = server.submit(clip, num_inference_steps=400)
    server.wait(job, "running")
    path = server.home / "jobs" / job / "attempt-1" / "preview.jpg"
    pictures = [
        jpeg(np.zeros((8, 8, 3), np.uint8)),
        jpeg(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)),
    ]
    stop = threading.Event()

    def replace() -> None:
        turn = 0
        with contextlib.suppress(OSError):  # the job has ended
            while not stop.is_set():
                path.with_name("mine").write_bytes(pictures[turn % 2])
                os.replace(path.with_name("mine"), path)
                turn += 1
                time.sleep(0.0005)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        sizes = []
        while path.parent.exists() and len(sizes) < 150:
            answer = server.client.get(f"/v1/jobs/{job}/preview.jpg")  # httpx refuses a body of another length
            if answer.status_code == httpx.codes.OK:
                image = Image.open(io.BytesIO(answer.content))
                image.load()
                sizes.append(image.width)
    finally:
        stop.set()
        thread.join()
        server.client.post(f"/v1/jobs/{job}/cancel")
        server.wait(job)
    assert {8, 256} <= set(sizes), "both came, so they did take turns"


def test_a_preview_that_goes_away_meanwhile_is_no_fault_of_the_server(server: RunningServer, clip: str) -> None:
    """Asked for without pause from a job's start to its end, across the renaming of its folder: never a 5xx."""
    for _ in range(4):
        job = server.submit(clip, num_inference_steps=6)
        seen: set[int] = set()
        while server.job(job)["state"] != "done":
            for _ in range(10):
                seen.add(server.client.get(f"/v1/jobs/{job}/preview.jpg").status_code)
        assert seen <= {200, 409}, seen


def test_a_preview_that_is_gone_between_two_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same, but hitting the moment for certain: found by stat, gone when it is read."""
    context = build_context(Settings(home=tmp_path, backend="tests.server.slow_backend"), Home(tmp_path), "t" * 20)
    store = context.store
    job = str(uuid.uuid4())
    store.add(job, "f", {"clip": "0" * 64, "model": "nano"}, None, None)
    waiting = store.first_waiting("")
    assert waiting is not None
    store.take(waiting, 1.0, "test")
    folder = context.home.begin_attempt(job, 1)
    (folder / "preview.jpg").write_bytes(jpeg(np.zeros((8, 8, 3), np.uint8)))
    router = results.build_router(context, lambda id: store.get(id))  # type: ignore[arg-type,return-value]
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)

    async def fetch() -> httpx.Response:  # in this thread, which the store belongs to
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(f"/jobs/{job}/preview.jpg")

    assert asyncio.run(fetch()).status_code == 200
    stat = os.stat

    def stat_and_lose(path: object, *rest: object, **named: object) -> os.stat_result:
        found = stat(path, *rest, **named)  # type: ignore[arg-type]
        if str(path).endswith("preview.jpg"):
            os.unlink(str(path))
        return found

    monkeypatch.setattr(results.os, "stat", stat_and_lose)
    answer = asyncio.run(fetch())
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "no_preview_yet"
    store.close()
