# SPDX-License-Identifier: Apache-2.0
"""A generator that takes no time, so that what is left is what the server costs.

HVG3D_BENCH_STEPS progress reports per job (with a preview each), HVG3D_BENCH_SECONDS of sleep in all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

STEPS = int(os.environ.get("HVG3D_BENCH_STEPS", "1"))
SECONDS = float(os.environ.get("HVG3D_BENCH_SECONDS", "0"))
MODEL = {"id": "instant", "title": "Instant", "licence": "Apache-2.0", "bytes": 0, "installed": True, "path": ""}
VIDEO = bytes(500_000)  # of about the size of a real one


def list_models() -> list[dict[str, Any]]:
    return [MODEL]


def find_model(name: str) -> dict[str, Any]:
    if name != "instant":
        raise ValueError(f"model {name!r} is not known")
    return MODEL


class InstantBackend:
    def load_clip(self, path: Path) -> SimpleNamespace:
        return SimpleNamespace()

    def load_model(self, name: str, memory: Sequence[str]) -> SimpleNamespace:
        return SimpleNamespace(device="none")

    def generate(
        self,
        model: Any,
        clip: Any,
        request: Mapping[str, Any],
        on_progress: Callable[..., None],
        should_cancel: Callable[[], bool],
    ) -> SimpleNamespace:
        frames = np.zeros((1, 48, 64, 3), np.uint8)
        for step in range(STEPS):
            if SECONDS:
                time.sleep(SECONDS / STEPS)
            on_progress("denoise", step + 1, STEPS, frames[0])
        return SimpleNamespace(frames=frames, fps=8.0)

    def write_result(self, result: Any, folder: Path) -> None:
        (folder / "metadata.json").write_text("{}", "utf-8")
        (folder / "video.mp4").write_bytes(VIDEO)


def create() -> InstantBackend:
    return InstantBackend()
