# SPDX-License-Identifier: Apache-2.0
"""The preview of a running job, which is replaced while it is being fetched."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time

import httpx
import numpy as np
from PIL import Image

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
