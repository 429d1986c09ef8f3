# SPDX-License-Identifier: Apache-2.0
"""Where a server keeps its files. No path ever comes from a client: only hashes and UUIDs that were checked.

home/token  server.json  server.lock  jobs.sqlite3
home/clips/<sha256>.safetensors
home/uploads/<sha256>.<random>.part   an upload under way, or broken off (see uploads)
home/jobs/<uuid>/attempt-<n>/         what a worker is writing
home/jobs/<uuid>/result/              a finished attempt, renamed as a whole: it is there entirely or not at all
home/logs/worker-<slot>.log
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from server.errors import ApiError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RENAME_TRIES = 10


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, atomically."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut. Windows has no such call and does it by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HomeInUse(RuntimeError):
    """Another server works in this home."""


class Home:
    """The folder of one server. ``lock`` before use: two servers must never share a queue."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.clips = self.root / "clips"
        self.uploads = self.root / "uploads"
        self.jobs = self.root / "jobs"
        self.logs = self.root / "logs"
        self.database = self.root / "jobs.sqlite3"
        self.handshake = self.root / "server.json"
        self._lock: Any = None
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.clips, self.uploads, self.jobs, self.logs):
            folder.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> None:
        """Hold the home until the process ends, however it ends."""
        file = open(self.root / "server.lock", "a+b")  # noqa: SIM115 - it stays open: that is the lock
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            where = ""
            with contextlib.suppress(OSError, ValueError, KeyError):
                other = json.loads(self.handshake.read_text("utf-8"))
                where = f" (process {other['pid']}, {other['url']})"
            raise HomeInUse(
                f"another server{where} already uses {self.root}: use that one, stop it, or give another --home"
            ) from None
        self._lock = file

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # clips

    def clip(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ApiError(
                422,
                "invalid_sha256",
                f"{sha256[:80]!r} is not a SHA-256",
                field="sha256",
                remedy="send 64 lower-case hexadecimal digits",
            )
        return self.clips / f"{sha256}.safetensors"

    def touch_clip(self, sha256: str) -> None:
        """Somebody means to use it: the clean-up leaves it alone for a while."""
        with contextlib.suppress(OSError):
            os.utime(self.clip(sha256))

    def list_clips(self) -> list[tuple[str, float, int]]:
        """(hash, when it was last asked for, bytes) of every clip."""
        found = []
        for path in self.clips.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((path.stem, status.st_mtime, status.st_size))
        return found

    # jobs

    def attempt(self, job: str, attempt: int) -> Path:
        return self.jobs / str(uuid.UUID(job)) / f"attempt-{attempt}"

    def result(self, job: str) -> Path:
        return self.jobs / str(uuid.UUID(job)) / "result"

    def has_result(self, job: str) -> bool:
        return self.result(job).is_dir()

    def begin_attempt(self, job: str, attempt: int) -> Path:
        """An empty folder for the worker to write into."""
        folder = self.attempt(job, attempt)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def publish(self, job: str, attempt: int) -> int:
        """Turn a finished attempt into the job's result, in one rename after everything is on disk. Its bytes."""
        folder = self.attempt(job, attempt)
        for name in ("video.mp4", "metadata.json", "preview.jpg"):
            path = folder / name
            if not path.is_file() or path.stat().st_size == 0:
                raise FileNotFoundError(f"the worker said it was done, but {name} is missing or empty")
        # All at once, for a disk takes them together; one after another they keep the next job waiting.
        with ThreadPoolExecutor(8) as pool:
            waits = [*(pool.submit(_sync_file, path) for path in folder.iterdir())]
            waits += [pool.submit(sync_folder, path) for path in (folder, self.jobs)]
            for wait in waits:
                wait.result()
        if self.has_result(job):  # of an attempt that was taken for lost: the same request, so the same video
            shutil.rmtree(folder, ignore_errors=True)
            return self.result_bytes(job)
        for tries_left in reversed(range(_RENAME_TRIES)):
            try:
                folder.rename(self.result(job))
                break
            except PermissionError:  # Windows, while a client reads the preview
                if not tries_left:
                    raise
                time.sleep(0.2)
        sync_folder(folder.parent)
        return self.result_bytes(job)

    def result_bytes(self, job: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return sum(path.stat().st_size for path in self.result(job).iterdir())
        return 0

    def remove_result(self, job: str) -> None:
        """In one rename, so that it is never there in part; what is in the way is removed at the next start."""
        doomed = self.jobs / str(uuid.UUID(job)) / f"attempt-removed-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            self.result(job).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: something else is under way in there
            doomed.parent.rmdir()

    def discard_attempt(self, job: str, attempt: int) -> None:
        shutil.rmtree(self.attempt(job, attempt), ignore_errors=True)

    def clean(self) -> None:
        """Remove what workers left when the last server died."""
        for folder in self.jobs.glob("*/attempt-*"):
            shutil.rmtree(folder, ignore_errors=True)
