# SPDX-License-Identifier: GPL-3.0-or-later
"""What has become of each shot, on disk: killed at any moment, a batch goes on from here."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import IO, Any

STATE_FILE = "batch.jsonl"
_LOCK_FILE = "batch.lock"


class Busy(RuntimeError):
    """Another batch works in the same folder."""


class State:
    """Records by kind and id, one JSON line for each change; the last line of an id holds.

    Every line is on disk before :meth:`put` returns. A line that was cut off by a crash is left out, and the file is
    written anew, one line for each record, whenever it is opened. Any thread may use it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._mutex = threading.Lock()
        self._lock = _take_lock(folder / _LOCK_FILE)
        try:
            self._records = _read(folder / STATE_FILE)
            self._compact()
            self._file: IO[str] = open(folder / STATE_FILE, "a", encoding="utf-8")  # noqa: SIM115 - open as long as we are
        except BaseException:
            self._lock.close()
            raise

    def get(self, kind: str, id: str) -> dict[str, Any] | None:
        with self._mutex:
            return self._records.get((kind, id))

    def put(self, kind: str, id: str, values: dict[str, Any]) -> None:
        record = {"kind": kind, "id": id, **values}
        with self._mutex:
            if self._records.get((kind, id)) == record or self._file.closed:
                return
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._records[kind, id] = record

    def close(self) -> None:
        with self._mutex:
            self._file.close()
            self._lock.close()

    def _compact(self) -> None:
        part = self.folder / f".{STATE_FILE}.part"
        with open(part, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in self._records.values())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.folder / STATE_FILE)


def _read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    records: dict[tuple[str, str], dict[str, Any]] = {}
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
                records[record["kind"], record["id"]] = record
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when everything stopped
    return records


def _take_lock(path: Path) -> IO[bytes]:
    """Held by the open file, so that the system itself lets go of it when a process dies."""
    file = open(path, "a+b")  # noqa: SIM115 - holds the lock
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise Busy(f"another batch works in {path.parent}; wait for its end, or choose another folder") from None
    return file
