# SPDX-License-Identifier: Apache-2.0
"""A generator for the tests of the server: real clips in, a real small video out of a tiny network, without torch.

Words in the prompt make it misbehave: ``crash`` (killed at the second step), ``crash once`` (only the first time),
``memory`` (asks for more than there is), ``memory N`` (only above the N-th rung of memory modes), ``bug`` (raises),
``deaf`` (does not listen to a cancel), ``hang`` (stands still at the second step), ``hang once``, ``empty`` (writes no
video). HVG3D_TEST_STEP_SECONDS is the time that a step takes, HVG3D_TEST_LOAD_SECONDS that of loading a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hvg3d_core.conditions import Clip, clip_from_bytes
from server.backend import OnProgress

LOAD_SECONDS = float(os.environ.get("HVG3D_TEST_LOAD_SECONDS", "0"))
STEP_SECONDS = float(os.environ.get("HVG3D_TEST_STEP_SECONDS", "0.05"))
MODELS = {
    "nano": {"id": "nano", "title": "Slow", "licence": "Apache-2.0", "bytes": 0, "installed": True, "path": "/secret"},
    "other": {"id": "other", "title": "Other", "licence": "Apache-2.0", "bytes": 0, "installed": True, "path": ""},
    "das": {"id": "das", "title": "Absent", "licence": "other", "bytes": 10**10, "installed": False, "path": ""},
}


LADDER = [[], ["text_first"], ["text_first", "tiling"]]


def memory_ladder() -> list[list[str]]:
    return LADDER


def list_models() -> list[dict[str, Any]]:
    return list(MODELS.values())


def find_model(name: str) -> dict[str, Any]:
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known")
    return MODELS[name]


class Stopped(Exception):
    pass


class TinyNetwork:
    """Noise that a two-layer network with fixed weights turns into a picture, a step at a time."""

    def __init__(self, seed: int) -> None:
        weights = np.random.default_rng(0)
        self._first, self._second = weights.normal(size=(3, 8)), weights.normal(size=(8, 3)) / 8
        self._noise = np.random.default_rng(seed).normal(size=(9, 48, 64, 3))

    def step(self) -> np.ndarray:
        self._noise = 0.8 * self._noise + np.tanh(np.roll(self._noise, 1, axis=2) @ self._first) @ self._second
        return self.frames()

    def frames(self) -> np.ndarray:
        return (127.5 * (1 + np.tanh(self._noise))).astype(np.uint8)


class SlowBackend:
    def load_clip(self, path: Path) -> Clip:
        return clip_from_bytes(path.read_bytes())

    def load_model(self, name: str, memory: Sequence[str]) -> SimpleNamespace:
        print("a library prints when a model is loaded")
        time.sleep(LOAD_SECONDS)
        return SimpleNamespace(device="cpu", name=name, memory=tuple(memory))

    def generate(
        self,
        model: SimpleNamespace,
        clip: Clip,
        request: Mapping[str, Any],
        on_progress: OnProgress,
        should_cancel: Callable[[], bool],
    ) -> SimpleNamespace:
        prompt = request["prompt"] or ""
        steps = request["num_inference_steps"] or 4
        network = TinyNetwork(request["seed"])
        frames = network.frames()
        on_progress("encode", 0, 1, None)
        on_progress("encode", 1, 1, None)
        for step in range(steps):
            if should_cancel() and "deaf" not in prompt:
                raise Stopped
            time.sleep(STEP_SECONDS)
            if "crash" in prompt and step == 1:
                self._crash(once="once" in prompt, seed=request["seed"])
            if "hang" in prompt and step == 1:
                self._hang(once="once" in prompt, seed=request["seed"])
            if "bug" in prompt:
                raise RuntimeError("the flux capacitor is missing")
            enough = re.search(r"memory (\d)", prompt)
            if "memory" in prompt and not (enough and LADDER.index(list(model.memory)) >= int(enough[1])):
                np.empty(2**58, np.uint8)
            frames = network.step()
            on_progress("denoise", step + 1, steps, frames[0])
        os.write(1, b"a library prints on standard output")  # unended: must not swallow the message that follows
        on_progress("decode", 1, 1, frames[0])
        metadata = {
            "seed": request["seed"],
            "clip_frames": clip.num_frames,
            "pid": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
        }
        return SimpleNamespace(frames=frames, fps=8.0, metadata=metadata, empty="empty" in prompt)

    @staticmethod
    def _first_time(word: str, seed: int) -> bool:
        mark = Path(os.environ["HVG3D_TEST_FOLDER"]) / f"{word}-{seed}"
        known = mark.exists()
        mark.touch()
        return not known

    def _crash(self, once: bool, seed: int) -> None:
        if self._first_time("crashed", seed) or not once:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    def _hang(self, once: bool, seed: int) -> None:
        if self._first_time("hung", seed) or not once:
            time.sleep(3600)

    def write_result(self, result: SimpleNamespace, folder: Path) -> None:
        from hvg3d_core.video import write_mp4

        (folder / "metadata.json").write_text(json.dumps(result.metadata), "utf-8")
        if not result.empty:
            write_mp4(folder / "video.mp4", result.frames, result.fps)


def create() -> SlowBackend:
    return SlowBackend()
