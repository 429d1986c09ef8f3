# SPDX-License-Identifier: Apache-2.0
"""The process that generates: ``python -m server.worker --backend SPEC``. It may crash or be killed at any time.

JSON lines both ways. On standard input come

    {"op": "run", "job", "attempt", "clip", "model", "request", "memory", "limits", "folder",
     "report_seconds"}   one at a time; progress is told no more often than that
    {"op": "load", "model", "id", "memory"}    get ready for jobs of this model
    {"op": "cancel", "job"}

and on what was standard output go ``ready``, ``progress``, ``model``, ``done``, ``failed``, ``cancelled``. Anything
that libraries print goes to standard error instead. The end of standard input ends the process at once, whatever it
is doing: a worker never outlives its server.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvg3d_core.conditions.limits import ClipLimits, check_limits
from server.backend import Backend, split_spec
from server.failures import describe_exception, is_out_of_memory

_PREVIEW_SECONDS = 0.5
_PREVIEW_WIDTH = 512
_KILL_ON_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


class Cancelled(Exception):
    """Between two calls of the backend it was seen that the job is not wanted any more."""


class Channel:
    """The line to the server. Taken from standard output, which then belongs to standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"type": kind, **fields}) + "\n")
            self._file.flush()


def die_with_parent() -> None:
    """Have Linux kill this process when the server dies. Elsewhere the end of standard input does it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_KILL_ON_PARENT_DEATH, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides


def write_jpeg(image: np.ndarray, path: Path) -> None:
    """``image``: H x W x 3 uint8. Replaced in one go, for it is being served."""
    picture = Image.fromarray(image)
    if picture.width > _PREVIEW_WIDTH:
        picture = picture.resize((_PREVIEW_WIDTH, max(1, round(picture.height * _PREVIEW_WIDTH / picture.width))))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    part = path.with_suffix(".part")
    part.write_bytes(data.getvalue())
    os.replace(part, path)


class Reporter:
    """Progress of one job, a message every ``seconds`` at most; the first and last of a phase always go out."""

    def __init__(self, channel: Channel, job: str, preview: Path, seconds: float) -> None:
        self._channel = channel
        self._job = job
        self._preview = preview
        self._seconds = seconds
        self._phase = ""
        self._sent = 0.0
        self._drawn = 0.0
        self.has_preview = False

    def __call__(self, phase: str, step: int, total: int, preview: np.ndarray | None = None) -> None:
        now = time.monotonic()
        if preview is not None and now - self._drawn >= _PREVIEW_SECONDS:
            self._drawn = now
            with contextlib.suppress(OSError):  # no reason to lose a job; Windows refuses while it is being served
                write_jpeg(preview, self._preview)
                self.has_preview = True
        if phase == self._phase and step < total and now - self._sent < self._seconds:
            return
        self._phase, self._sent = phase, now
        self._channel.send(
            "progress", job=self._job, phase=phase, step=int(step), total=int(total), preview=self.has_preview
        )


class Worker:
    def __init__(self, channel: Channel, backend: str) -> None:
        self._channel = channel
        self._spec = backend
        self._backend: Backend | None = None
        self._model: tuple[tuple[str, ...], Any] | None = None
        self._scene: tuple[tuple[Any, ...], bytes] | None = None
        """The last scene.mp4, and what it was drawn from."""
        self._cancelled: set[str] = set()
        self._commands: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen(self) -> None:
        """Read commands until the server is gone; runs in a thread of its own, so that a cancel overtakes the job."""
        with contextlib.suppress(OSError, ValueError):
            for line in sys.stdin:
                self.take(json.loads(line))
        os._exit(0)

    def take(self, command: dict[str, Any]) -> None:
        """Accept a command, from any thread. One that cancels has its effect within the running step."""
        if command["op"] == "cancel":
            self._cancelled.add(command["job"])
        else:
            self._commands.put(command)

    def work(self) -> None:
        self._channel.send("ready", pid=os.getpid())
        while True:
            command = self._commands.get()
            if command["op"] == "load":
                self.preload(command)
            else:
                self.run(command)

    def preload(self, command: dict[str, Any]) -> None:
        """Have the model in memory before the first job. If it cannot be loaded, that job will say why."""
        try:
            self._load_model(command["model"], command["id"], command["memory"])
        except Exception:
            traceback.print_exc()

    def run(self, command: dict[str, Any]) -> None:
        job = command["job"]
        try:
            frames, fps = self._generate(command)
            self._channel.send("done", job=job, frames=frames, fps=fps)
        except Exception as error:
            if job in self._cancelled:
                self._channel.send("cancelled", job=job)
            else:
                traceback.print_exc()
                # Where the mode was left to the generator, it says which one was not enough.
                self._channel.send(
                    "failed", job=job, error=describe_exception(error), mode=getattr(error, "mode", None)
                )
            if is_out_of_memory(error):
                self._forget_model()
        gc.collect()

    def _generate(self, command: dict[str, Any]) -> tuple[int, float]:
        job, folder = command["job"], Path(command["folder"])
        request = {name: value for name, value in command["request"].items() if name not in ("clip", "memory")}
        report = Reporter(self._channel, job, folder / "preview.jpg", command["report_seconds"])

        def check() -> None:
            if job in self._cancelled:
                raise Cancelled

        check()
        report("load", 0, 2)
        backend = self._get_backend()
        source = Path(command["clip"])
        check_limits(source, ClipLimits(**command["limits"]), f"clip {source.stem[:12]}")
        clip = backend.load_clip(source)
        check()
        report("load", 1, 2)
        model = self._load_model(command["model"], request["model"], command["memory"])
        check()
        report("load", 2, 2)
        result = backend.generate(model, clip, request, report, lambda: job in self._cancelled)
        report("write", 0, 1)
        backend.write_result(result, folder)
        write_jpeg(result.frames[len(result.frames) // 2], folder / "preview.jpg")
        self._draw_scene(command["clip"], clip, result, folder / "scene.mp4")
        self._sign(folder / "metadata.json", command, result)
        report("write", 1, 1)
        return len(result.frames), float(result.fps)

    def _get_backend(self) -> Backend:
        if self._backend is None:
            module, factory = split_spec(self._spec)
            self._backend = getattr(module, factory)()
        return self._backend

    def _load_model(self, source: str, name: str, memory: Sequence[str]) -> Any:
        """One model stays in memory; another one takes its place. ``name`` is its id, ``source`` what is loaded."""
        key = (name, *memory)
        if self._model is None or self._model[0] != key:
            self._forget_model()
            self._model = (key, self._get_backend().load_model(source, memory))
            gc.collect()
            gc.freeze()  # what is here now stays: to walk through all of torch after every job takes a quarter second
            device = getattr(self._model[1], "device", None)
            self._channel.send("model", model=name, device=None if device is None else str(device))
        return self._model[1]

    def _forget_model(self) -> None:
        self._model = None
        gc.unfreeze()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _draw_scene(self, source: str, clip: Any, result: Any, path: Path) -> None:
        """What the result was made from, frame by frame beside it. The result is whole without it, so no error counts.

        The takes of a clip share it: the last one is kept.
        """
        frames, height, width = result.frames.shape[:3]
        key = (source, frames, height, width, result.fps)
        try:
            if self._scene is None or self._scene[0] != key:
                from hvg3d_core.scene_video import scene_video
                from hvg3d_core.video import write_mp4

                write_mp4(path, scene_video(clip, frames, width, height), result.fps)
                self._scene = (key, path.read_bytes())
            else:
                path.write_bytes(self._scene[1])
        except Exception:
            traceback.print_exc()
            path.unlink(missing_ok=True)

    def _sign(self, path: Path, command: dict[str, Any], result: Any) -> None:
        """Add to the sidecar what the server knows: the job, the request with the clip's hash, and the video's size."""
        metadata = json.loads(path.read_text("utf-8"))
        frames, height, width = result.frames.shape[:3]
        metadata["video"] = {"frames": frames, "fps": float(result.fps), "width": width, "height": height}
        metadata["job"] = {"id": command["job"], "attempt": command["attempt"], "request": command["request"]}
        metadata["job"]["memory"] = command["memory"]
        path.write_text(json.dumps(metadata, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.worker")
    parser.add_argument("--backend", required=True)
    arguments = parser.parse_args()
    channel = Channel()
    die_with_parent()
    worker = Worker(channel, arguments.backend)
    threading.Thread(target=worker.listen, name="commands", daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
