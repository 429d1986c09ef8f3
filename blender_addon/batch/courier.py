# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that brings clips to the server and videos back, with several jobs in flight."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..client.http import Address, Api
from ..client.protocol import (
    FINISHED,
    PHASE_LABELS,
    ClientError,
    JobStatus,
    Missing,
    Unauthorized,
    Unreachable,
)
from .plan import Shot
from .state import State

_T = TypeVar("_T")
_NAMESPACE = uuid.UUID("5f0d3a52-6d0e-4c0c-9f43-0b1d8a6a7c11")
_TURN_SECONDS = 0.3
_BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 5.0)
# Failures that lie in the machine of the moment, not in the shot.
_WORTH_RETRYING = frozenset({"worker_died", "worker_hung", "worker_cannot_start", "too_many_attempts", "disk_full"})
_LATER = frozenset({"queue_full", "too_many_uploads", "disk_full"})  # refusals that pass
_TAKEN = frozenset({"id_conflict", "job_deleted"})  # the job's id was used for something else


@dataclass(frozen=True)
class Work:
    """A shot whose clip is on disk. ``attempt`` numbers its jobs, of which each has an id of its own."""

    shot: Shot
    key: str
    request: dict[str, Any]  # as it is sent, with the clip's hash
    clip: Path
    attempt: int = 0
    retries: int = 0  # of this run

    @property
    def job(self) -> str:
        """The same for the same work, so that what was sent before a crash is found again, not done twice."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.shot.id}:{self.key}:{self.attempt}"))


class _Ended(Exception):
    """Told to stop."""


@dataclass
class Courier:
    """``on_change`` hears of each shot: (shot, what is new in its row of :mod:`job`). Called in this thread.

    ``patience``: seconds to wait for a server that is away before giving up; what was sent goes on there.
    """

    address: Callable[[], Address]
    state: State
    out: Path
    on_change: Callable[[Shot, dict[str, Any]], None]
    in_flight: int = 8
    retries: int = 1
    patience: float = 300.0
    problem: tuple[str, str] = ("", "")  # what it ended from: message, remedy
    notice: str = ""  # of the moment, such as that the server is away
    _inbox: queue.Queue[Work | Callable[[], None] | None] = field(default_factory=queue.Queue)
    _waiting: collections.deque[Work] = field(default_factory=collections.deque)
    _flights: dict[str, Work] = field(default_factory=dict)
    _not_before: float = 0.0
    _closed: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._cancel = False
        self._thread = threading.Thread(target=self._run, name="hvg3d batch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, work: Work) -> None:
        self._inbox.put(work)

    def call(self, task: Callable[[], None]) -> None:
        """Run something in this thread: writing a large file, say."""
        self._inbox.put(task)

    def no_more(self) -> None:
        """It ends with the last of what it has been given."""
        self._inbox.put(None)

    def stop(self, *, cancel: bool) -> None:
        """End soon. ``cancel``: take the jobs back from the server, too; they are made when the batch goes on."""
        self._cancel = cancel
        self._stop.set()

    def join(self, timeout: float | None = None) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def load(self) -> int:
        """Shots that it has and that are not finished."""
        return self._inbox.qsize() + len(self._waiting) + len(self._flights)

    # everything below runs in the thread

    def _run(self) -> None:
        try:
            while not (self._closed and self.load == 0):
                if self._take_in():
                    continue  # whoever gives work goes first: it may be a whole list
                self._send_some()
                for job in list(self._flights):
                    self._look_after(job)
                if self._stop.wait(_TURN_SECONDS):
                    raise _Ended
        except _Ended:
            if self._cancel:
                self._take_back()
        except ClientError as error:
            self.problem = (error.message, error.remedy)
        except OSError as error:
            self.problem = (
                f"{self.out}: {error.strerror or error}",
                "Free some space, or see that the folder can be written to, then start the batch again: it goes on",
            )
        except Exception as error:
            self.problem = (f"{type(error).__name__}: {error}", "This is a fault of the add-on; please report it")

    def _take_in(self) -> bool:
        try:
            item = self._inbox.get_nowait()
        except queue.Empty:
            return False
        if item is None:
            self._closed = True
        elif isinstance(item, Work):
            self._waiting.append(item)
        else:
            item()
        if self._stop.is_set():
            raise _Ended
        return True

    def _send_some(self) -> None:
        while self._waiting and len(self._flights) < self.in_flight and time.monotonic() >= self._not_before:
            work = self._waiting[0]
            try:
                self._submit(work)
            except _Ended:
                raise
            except (Unreachable, Unauthorized):
                raise
            except ClientError as error:
                if error.code in _LATER:
                    self.notice = f"{error.message}; trying again"
                    self._not_before = time.monotonic() + 5.0
                    return
                self._waiting.popleft()
                if error.code in _TAKEN and work.attempt < 1000:
                    self._waiting.appendleft(replace(work, attempt=work.attempt + 1))
                else:
                    self._failed(work, error.message, error.remedy)
                continue
            self._waiting.popleft()
            self._flights[work.job] = work

    def _submit(self, work: Work) -> None:
        self.on_change(work.shot, {"state": "sending", "phase": "Sending"})
        self._record(work, "sent")
        sha256 = work.request["clip"]
        data: bytes | None = None
        for _ in range(1000):  # goes on where an upload broke off
            offset = self._patiently(lambda api: api.clip_offset(sha256))
            if offset is None:
                break
            if data is None:
                data = work.clip.read_bytes()
            with contextlib.suppress(Unreachable):
                Api(self.address()).put_clip(sha256, data, offset, lambda fraction: self._check())
        self._patiently(lambda api: api.submit(work.job, work.request, work.shot.label))
        self.notice = ""

    def _look_after(self, job: str) -> None:
        work = self._flights[job]
        try:
            status = self._patiently(lambda api: api.job(job))
            if status.state == "done":
                self._fetch(work)
                return
        except Missing:  # a server that was set up anew, or somebody removed the result: make it again
            del self._flights[job]
            self._again(work, counts=False)
            return
        if status.state not in FINISHED:
            self._show(work, status)
            return
        del self._flights[job]
        if status.state == "failed" and status.code in _WORTH_RETRYING and work.retries < self.retries:
            self._again(work)
        elif status.state == "failed":
            self._failed(work, status.error or "The server gave no reason", status.remedy)
        elif status.state == "cancelled":
            self._failed(work, "Somebody has cancelled it on the server", "Start the batch again with Retry Failed")

    def _again(self, work: Work, *, counts: bool = True) -> None:
        if not counts and work.attempt >= 1000:
            self._failed(work, "The server loses its jobs", "See the server's log")
            return
        self._waiting.append(replace(work, attempt=work.attempt + 1, retries=work.retries + counts))
        self.on_change(work.shot, {"state": "ready", "phase": "Once more", "fraction": 0.0, "eta": None})

    def _show(self, work: Work, status: JobStatus) -> None:
        if status.state == "queued":
            phase = f"Waiting, {status.queue_position} before it" if status.queue_position else "Next in the queue"
            self.on_change(work.shot, {"state": "queued", "phase": phase, "fraction": 0.0, "eta": None})
            return
        phase = PHASE_LABELS.get(status.phase, "Starting")
        self.on_change(work.shot, {"state": "running", "phase": phase, "fraction": status.fraction, "eta": status.eta})

    def _fetch(self, work: Work) -> None:
        stem = self.out / "videos" / work.shot.slug
        video, metadata = stem.with_name(stem.name + ".mp4"), stem.with_name(stem.name + ".json")
        self._patiently(lambda api: api.download(work.job, "metadata.json", metadata))
        self._patiently(lambda api: api.download(work.job, "video.mp4", video))
        scene = self.out / "scenes" / f"{work.shot.unit.slug}-{work.request['clip'][:8]}.mp4"
        if not scene.exists():
            with contextlib.suppress(ClientError):  # beside the point, and not every server draws it
                Api(self.address()).download(work.job, "scene.mp4", scene)
        files = {
            "video": self._relative(video),
            "metadata": self._relative(metadata),
            "scene": self._relative(scene) if scene.exists() else "",
        }
        self._record(work, "done", **files)
        del self._flights[work.job]
        self.on_change(
            work.shot, {"state": "done", "phase": "Done", "fraction": 1.0, "eta": None, "video": files["video"]}
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _failed(self, work: Work, message: str, remedy: str) -> None:
        self._record(work, "failed", error=message, remedy=remedy)
        self.on_change(
            work.shot, {"state": "failed", "phase": "Failed", "eta": None, "message": message, "remedy": remedy}
        )

    def _record(self, work: Work, state: str, **more: str) -> None:
        known = {"label": work.shot.label, "key": work.key, "attempt": work.attempt, "job": work.job, "state": state}
        self.state.put("shot", work.shot.id, {**known, "request": work.request, **more})

    def _take_back(self) -> None:
        for work in list(self._flights.values()):
            with contextlib.suppress(ClientError):
                status = Api(self.address()).cancel(work.job)
                if status.state == "done":
                    self._flights[work.job] = work
                    with contextlib.suppress(_Ended):
                        self._fetch(work)
                    continue
                self._record(work, "stopped")
                self.on_change(work.shot, {"state": "ready", "phase": "Stopped", "fraction": 0.0, "eta": None})

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Ended

    def _patiently(self, call: Callable[[Api], _T]) -> _T:
        since = time.monotonic()
        for attempt in range(1_000_000):
            try:
                result = call(Api(self.address()))
            except Unreachable as error:
                if time.monotonic() - since > self.patience:
                    raise
                self.notice = f"Waiting for the server: {error.message}"
                if self._stop.wait(_BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)]):
                    raise _Ended from None
            else:
                if attempt:
                    self.notice = ""
                return result
        raise AssertionError("unreachable")
