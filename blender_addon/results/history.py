# SPDX-License-Identifier: GPL-3.0-or-later
"""Which videos there are: a small index in the extension's folder, and what lies in the folders of the results.

The index remembers also videos whose files are gone or on a disk that is not there, so that they are shown as missing
rather than forgotten. Files are read in a thread; never ``bpy``.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..client.journal import write_json
from ..client.lock import FileLock
from .files import SHOT, metadata_path

_MOST = 2000  # entries; the oldest go first
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Entry:
    """One video. ``made``: seconds since 1970; ``missing``: its file is not there."""

    movie: str
    made: float = 0.0
    scene: str = ""
    blend: str = ""
    seed: int = 0
    prompt: str = ""
    model: str = ""
    job: str = ""
    clip: str = ""
    fps: float = 0.0
    frame_start: int = 1
    missing: bool = False

    @property
    def path(self) -> Path:
        return Path(self.movie)


def entry_of(movie: Path, metadata: dict[str, Any]) -> Entry | None:
    """None for a video that the add-on did not ask for."""
    shot = metadata.get(SHOT)
    if not isinstance(shot, dict):
        return None
    request = shot.get("request") if isinstance(shot.get("request"), dict) else {}
    model = metadata.get("model")
    video = metadata.get("video") if isinstance(metadata.get("video"), dict) else {}
    try:
        return Entry(
            movie=str(movie),
            made=float(shot.get("made") or 0.0),
            scene=str(shot.get("scene") or ""),
            blend=str(shot.get("blend") or ""),
            seed=int(request.get("seed") or 0),
            prompt=str(request.get("prompt") or ""),
            model=str((model.get("id") if isinstance(model, dict) else "") or request.get("model") or ""),
            job=str(shot.get("job") or ""),
            clip=str(request.get("clip") or ""),
            fps=float(video.get("fps") or metadata.get("fps") or 0.0),
            frame_start=int(shot.get("frame_start") or 1),
        )
    except (TypeError, ValueError):
        return None


class History:
    """``answers`` receives the whole list, the newest first, after every :meth:`refresh`."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.answers: queue.Queue[list[Entry]] = queue.Queue()
        self._lock = threading.Lock()
        self._read: dict[str, tuple[float, Entry | None]] = {}  # metadata file: when it was changed, what it says
        self._asked: set[Path] = set()
        self._thread: threading.Thread | None = None

    @property
    def reading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def refresh(self, folders: Iterable[Path]) -> None:
        """Look again, in a thread; also into ``folders`` that the index does not know."""
        self._asked.update(folders)
        if not self.reading:
            self._thread = threading.Thread(target=self._look, name="hvg3d history", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def add(self, entry: Entry) -> None:
        """From any thread. Where it cannot be written it is still found in its folder later."""
        self._change(lambda entries: [entry, *(old for old in entries if old.movie != entry.movie)])

    def forget(self, movie: str) -> None:
        self._change(lambda entries: [entry for entry in entries if entry.movie != movie])

    def _look(self) -> None:
        while True:
            asked, self._asked = self._asked, set()
            known = self._load()
            listed = {entry.movie: entry for entry in known}
            for folder in {*asked, *(entry.path.parent for entry in known)}:
                for entry in self._in_folder(folder):
                    listed.setdefault(entry.movie, entry)
            entries = [self._checked(entry) for entry in listed.values()]
            self.answers.put(sorted(entries, key=lambda entry: entry.made, reverse=True))
            if not self._asked:
                return

    def _checked(self, entry: Entry) -> Entry:
        return Entry(**{**asdict(entry), "missing": not _is_file(entry.path)})

    def _in_folder(self, folder: Path) -> list[Entry]:
        found = []
        try:
            paths = [path for path in folder.iterdir() if path.suffix == ".mp4" and not path.name.startswith(".")]
        except OSError:
            return []
        for movie in paths:
            path = metadata_path(movie)
            try:
                changed = path.stat().st_mtime
                if self._read.get(str(path), (None,))[0] != changed:
                    value = json.loads(path.read_text("utf-8"))
                    self._read[str(path)] = (changed, entry_of(movie, value) if isinstance(value, dict) else None)
            except (OSError, ValueError):
                continue
            entry = self._read[str(path)][1]
            if entry is not None:
                found.append(entry)
        return found

    def _load(self) -> list[Entry]:
        names = {field.name for field in fields(Entry)}
        try:
            listed = json.loads(self.index.read_text("utf-8"))["results"]
            return [Entry(**{k: v for k, v in one.items() if k in names}) for one in listed]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return []

    def _change(self, change: Any) -> None:
        """Two Blenders may do this at once."""
        with self._lock:
            lock = None
            try:
                self.index.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self.index.with_suffix(".lock"))
                end = time.monotonic() + _LOCK_SECONDS
                while not lock.take() and time.monotonic() < end:
                    time.sleep(0.02)
                entries = change(self._load())[:_MOST]
                write_json(self.index, {"version": 1, "results": [asdict(entry) for entry in entries]})
            except OSError:
                pass
            finally:
                if lock is not None:
                    lock.release()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
