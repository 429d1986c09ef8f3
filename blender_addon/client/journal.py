# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that were sent and whose results are not here yet, on disk, so that a Blender that dies finds them again.

One file per job in a folder of the extension's own, and beside it a lock that is held as long as some Blender follows
the job. No token is written down: it comes from the preferences when the job is followed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .http import Address
from .lock import FileLock


@dataclass(frozen=True)
class JobRecord:
    """``body``: the request as sent, with the clip's hash; ``shot``: what goes into the result's metadata."""

    id: str
    body: dict[str, Any]
    label: str
    output: str
    home: str = ""
    url: str = ""
    made: float = 0.0
    problem: str = ""  # why the finished result could not be saved
    shot: dict[str, Any] = field(default_factory=dict)

    def address(self, preferred: Address) -> tuple[Address, bool]:
        """Where the job is, and whether that is where the preferences point.

        A token is given only to the address that it belongs to.
        """
        if (self.home, self.url) == (preferred.home, preferred.url):
            return preferred, True
        return Address(url=self.url, home=self.home), False


class Journal:
    """All methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, FileLock] = {}
        self._guard = threading.Lock()

    def hold(self, record: JobRecord) -> bool:
        """Write it down and follow it. False where another Blender does. A full disk is no reason to stop."""
        with self._guard:
            if record.id not in self._locks:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    lock = FileLock(self._path(record.id, ".lock"))
                    if not lock.take():
                        return False
                    self._locks[record.id] = lock
                except OSError:
                    return True
            with contextlib.suppress(OSError):
                write_json(self._path(record.id, ".json"), asdict(record))
            return True

    def release(self, job: str) -> None:
        """It is not followed any more, but still wanted."""
        with self._guard:
            lock = self._locks.pop(job, None)
            if lock is not None:
                lock.release()

    def forget(self, job: str) -> None:
        """Its result is here, or there will be none."""
        with contextlib.suppress(OSError):
            self._path(job, ".json").unlink()
        self.release(job)
        with contextlib.suppress(OSError):
            self._path(job, ".lock").unlink()

    def find(self, job: str) -> JobRecord | None:
        try:
            return _record(json.loads(self._path(job, ".json").read_text("utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def waiting(self) -> list[JobRecord]:
        """Those that nobody follows, the newest first. Files that make no sense are left alone."""
        try:
            names = [path.stem for path in self.folder.glob("*.json")]
        except OSError:
            return []
        records = [record for name in names if (record := self.find(name)) is not None and self._is_free(name)]
        return sorted(records, key=lambda record: record.made, reverse=True)

    def note(self, record: JobRecord, problem: str) -> None:
        """Why a finished result is not here."""
        with contextlib.suppress(OSError):
            write_json(self._path(record.id, ".json"), asdict(replace(record, problem=problem)))

    def _is_free(self, job: str) -> bool:
        lock = FileLock(self._path(job, ".lock"))
        try:
            free = lock.take()
        except OSError:
            return True
        lock.release()
        return free

    def _path(self, job: str, suffix: str) -> Path:
        return self.folder / f"{job}{suffix}"


def _record(value: dict[str, Any]) -> JobRecord:
    record = JobRecord(**value)
    if not isinstance(record.body, dict) or not isinstance(record.shot, dict):
        raise TypeError("body and shot must be objects")
    return record


def write_json(path: Path, value: Any) -> None:
    """In one go: a reader sees the old or the new, never half."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
