# SPDX-License-Identifier: Apache-2.0
"""What runs on a node: it keeps one worker process, with a folder of this node's disk for clips and results.

The process is the same as on a single machine. So whatever a job does to it, the actor is there to say how it ended.
A Ray actor with asynchronous methods: its calls run beside each other, and a cancel overtakes everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from hvg3d_core import __version__
from server.process import WorkerProcess

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEEP_CLIPS = 8
_BATCH = 200
_FRESH_SECONDS = 60.0


class Lines:
    """What the worker prints, on its way to the server (a process.Log)."""

    def __init__(self, out: asyncio.Queue[dict[str, Any]]) -> None:
        self._out = out
        self.lines: deque[str] = deque(maxlen=1)

    def keep(self, text: str, pid: int | None) -> None:
        if text.rstrip():
            self._out.put_nowait({"type": "log", "line": text.rstrip(), "pid": pid})

    def close(self) -> None:
        """Nothing is held open."""


class NodeWorker:
    def __init__(self) -> None:
        self._folder, self._lock = private_folder()
        self._clips = self._folder / "clips"
        self._job = self._folder / "job"
        self._clips.mkdir()
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._told: deque[tuple[int, dict[str, Any]]] = deque()
        """Numbered messages whose receipt has not been confirmed."""
        self._numbers = itertools.count(1)
        self._running: tuple[str, int] | None = None
        self._process: WorkerProcess | None = None
        self._listener: asyncio.Task[None] | None = None
        self._preview = 0  # when the last one that was sent had been drawn

    async def start(self, backend: str, environment: dict[str, str]) -> dict[str, Any]:
        """Called once. Answers with the version that is installed here, and the worker's process id."""
        self._process = await WorkerProcess.start(backend, Lines(self._out), environment)
        self._listener = asyncio.create_task(self._listen(self._process))
        return {"version": __version__, "pid": self._process.pid}

    # clips come by their hash

    async def has_clip(self, sha256: str) -> bool:
        path = self._clip(sha256)
        if path.is_file():
            os.utime(path)
            return True
        return False

    async def put_clip(self, sha256: str, offset: int, data: bytes, last: bool) -> None:
        """A piece of a clip, in order. ValueError if the whole has another hash."""
        part = self._clip(sha256).with_suffix(".part")
        with open(part, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)
        if not last:
            return
        if await asyncio.to_thread(digest_of, part) != sha256:
            part.unlink()
            raise ValueError(f"the clip {sha256[:12]} has been damaged on its way to the node")
        os.replace(part, self._clip(sha256))
        known = sorted(self._clips.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for path in known[:-_KEEP_CLIPS]:
            path.unlink()

    def _clip(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is not a SHA-256")
        return self._clips / f"{sha256}.safetensors"

    # commands go in, messages come out

    async def command(self, command: dict[str, Any], sha256: str | None = None) -> None:
        """As a worker takes it; ``run`` with the clip's hash in place of its path, and without a folder."""
        assert self._process is not None
        if command["op"] == "run":
            assert sha256 is not None
            this = (command["job"], command["attempt"])
            if this == self._running:  # asked for again, where the answer was lost on its way
                return
            self._running = this
            shutil.rmtree(self._job, ignore_errors=True)
            self._job.mkdir()
            self._preview = 0
            command = {**command, "clip": str(self._clip(sha256)), "folder": str(self._job)}
        await self._process.send(**command)

    async def receive(self, seen: int) -> list[tuple[int, dict[str, Any]]]:
        """At least one message after number ``seen``, as soon as there is one: the worker's own, ``log`` lines, at
        last ``exit``. Asked again, where the answer was lost on its way, it has the same ones again."""
        while self._told and self._told[0][0] <= seen:
            self._told.popleft()
        if not self._told:
            self._told.append((next(self._numbers), await self._out.get()))
        while len(self._told) < _BATCH and not self._out.empty():
            self._told.append((next(self._numbers), self._out.get_nowait()))
        return list(self._told)

    async def _listen(self, process: WorkerProcess) -> None:
        while (message := await process.receive()) is not None:
            if message["type"] == "progress" and message["preview"]:
                with contextlib.suppress(OSError):
                    path = self._job / "preview.jpg"
                    drawn = path.stat().st_mtime_ns
                    if drawn != self._preview:
                        self._preview = drawn
                        message["jpeg"] = path.read_bytes()
            self._out.put_nowait(message)
        end = await process.end()
        self._out.put_nowait({"type": "exit", "reason": end.reason, "memory": end.memory})

    # results are fetched

    async def files(self) -> list[tuple[str, int, str]]:
        """(name, bytes, SHA-256) of each file that the job has written."""
        paths = sorted(path for path in self._job.iterdir() if path.is_file())
        return [(path.name, path.stat().st_size, await asyncio.to_thread(digest_of, path)) for path in paths]

    async def read(self, name: str, offset: int, size: int) -> bytes:
        with open(self._job / Path(name).name, "rb") as file:
            file.seek(offset)
            return file.read(size)

    async def close(self) -> None:
        """End the worker and leave nothing behind."""
        if self._process is not None:
            self._process.kill()
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._listener), 2)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def private_folder() -> tuple[Path, IO[bytes]]:
    """A folder on this node, and the lock that says that it is in use. What killed actors left is removed."""
    if sys.platform == "win32":
        folder = Path(tempfile.mkdtemp(prefix="hvg3d-ray-"))
        return folder, open(folder.with_suffix(".lock"), "ab")
    above = Path(tempfile.gettempdir()) / f"hvg3d-ray-{os.getuid()}"
    above.mkdir(mode=0o700, exist_ok=True)
    if above.is_symlink() or above.stat().st_uid != os.getuid():
        raise PermissionError(f"{above} belongs to another user: remove it")
    for path in above.iterdir():
        with contextlib.suppress(OSError):
            fresh = time.time() - path.stat().st_mtime < _FRESH_SECONDS  # its owner may not have the lock yet
            if not fresh and (lock := take_lock(path / "lock")) is not None:
                shutil.rmtree(path, ignore_errors=True)
                lock.close()
    folder = Path(tempfile.mkdtemp(dir=above))
    own = take_lock(folder / "lock")
    assert own is not None
    return folder, own


def take_lock(path: Path) -> IO[bytes] | None:
    """None if somebody has it, or there is no such folder any more."""
    import fcntl

    with contextlib.suppress(OSError):
        file = open(path, "ab")  # noqa: SIM115 - it stays open: that is the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            file.close()
    return None
